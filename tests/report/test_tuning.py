"""The report names the searches that tuned each compared method and the baseline, and warns of unequal budgets."""

from typing import Any

import pytest
from report_files import summary_of
from search_folders import Outcome, make_search
from test_comparison_page import text_of

from raykd.report.build import build, load
from raykd.report.read.search_summary import summarize_searches
from raykd.report.render.comparison_lines import about_tuning
from raykd.report.render.terminal import render_search, render_text
from raykd.report.stats.tuning import tunes_baseline
from raykd.spec.search import Search, Space, loguniform, uniform
from raykd.store.study import SearchTrial

KD = {"kind": "kd", "alpha": 0.5, "temperature": 4.0}
DKD = {"kind": "dkd", "beta": 8.0, "temperature": 4.0}
DIST = {"kind": "dist", "beta": 2.0}
LABELS = KD | {"alpha": 1.0}
SPACES: dict[str, dict[str, Space]] = {
    "kd": {"method.alpha": uniform(0, 1), "method.temperature": loguniform(1, 20)},
    "dkd": {"method.beta": loguniform(0.5, 16)},
    "dist": {"method.beta": loguniform(0.2, 8)},
}
RATE: dict[str, Space] = {"student.optimizer.lr": loguniform(0.01, 0.3)}


def config_of(method: dict[str, Any], lr: float = 0.1, epochs: int = 9, data: str = "d") -> dict[str, Any]:
    """Return the configuration of a run, as far as tuning depends on it. Its teacher trains on more images."""
    recipe = {"epochs": epochs, "optimizer": {"kind": "sgd", "lr": lr}}
    teacher = {"recipe": {"epochs": 12}, "data": {"name": "digits", "student_images": None}, "seed": 0}
    return {
        "seed": 1000,
        "method": method,
        "recipe": recipe,
        "data": {"name": "digits", "student_images": 100},
        "data_identity": data,
        "teacher": None if method["kind"] == "ce" else teacher,
    }


def write_search(
    results: Any, method: dict[str, Any], trials: int = 4, space: dict[str, Space] | None = None, **options: Any
) -> tuple[dict[str, Any], float]:
    """Write a search whose last trial wins, and return the method and the learning rate of the winner.

    options: name, confirm, family; and those of `config_of` for the runs of the trials.
    """
    space = space or SPACES[method["kind"]]
    settings = {name: options.pop(name) for name in ("name", "confirm") if name in options}
    family = options.pop("family", f"tune_{method['kind']}")
    found = [(method, options.get("lr", 0.1))]

    def outcome_of(trial: SearchTrial) -> Outcome:
        drawn = {path.removeprefix("method."): value for path, value in trial.configuration.items()}
        lr = drawn.pop("student.optimizer.lr", options.get("lr", 0.1))
        found.append((method | drawn, lr))
        return Outcome(
            "done", values=[50.0 + trial.number], run={"config": config_of(method | drawn, **options | {"lr": lr})}
        )

    search = Search(
        **{"space": space, "trials": trials, "sampler": "random", "scheduler": "none", "confirm": 0, **settings}
    )
    default = dict.fromkeys(space, 0.5)
    example = make_search(results.root, search, outcome_of, default, family=family)
    if search.confirm:
        example.confirm({trials - 1: [60.0, 61.0, 62.0]}, [50.0, 51.0, 52.0])
    return found[-1]


def write_compared(results: Any, *methods: dict[str, Any], seeds: range = range(3, 6), **options: Any) -> None:
    """Write a comparison of `methods` in family 'tuned'. options: those of `config_of`."""
    baseline_config = config_of({"kind": "ce"}, **options)
    baseline = [results.run("tuned", "baseline", seed, 50.0 + seed, config=baseline_config) for seed in seeds]
    named = {}
    for method in methods:
        kind, config = method["kind"], config_of(method, **options)
        named[kind] = [
            results.run("tuned", "distilled", seed, 52.0 + seed, method=kind, name=f"d-{kind}-s{seed}", config=config)
            for seed in seeds
        ]
    results.plan("tuned", named, baseline=baseline, distilled=next(iter(named.values())))


def lines_of(results: Any) -> list[str]:
    return about_tuning(load(results.root).summaries[0].tunings)


def warnings_of(results: Any) -> list[str]:
    return [line for line in load(results.root).summaries[0].warnings if "trials" in line or "seeds" in line]


def test_methods_that_searches_tuned_are_named_with_their_trials_and_so_are_the_others(results):
    kd, _ = write_search(results, KD, trials=6)
    dkd, _ = write_search(results, DKD, trials=4)
    write_compared(results, kd, dkd, DIST)
    expected = [
        "6 trials (54 epochs) over method.alpha, method.temperature tuned kd (search tune_kd/search)",
        "4 trials (36 epochs) over method.beta tuned dkd (search tune_dkd/search)",
        "not tuned by a search in this results folder: dist, the baseline",
    ]
    warning = "searches in this results folder had different numbers of trials: "
    warning += "6 trials for kd; 4 trials for dkd; none for dist, the baseline"
    report = build(results.root)
    assert about_tuning(report.summaries[0].tunings) == expected
    page, terminal = text_of(report.page), render_text(report)
    for line in expected:
        assert f"{line[0].upper()}{line[1:]}." in page and f"\n{line}\n" in terminal
    assert warning[1:] in page and f"\nwarning: {warning}\n" in terminal
    tunings = {tuning["name"]: tuning for tuning in summary_of(results.root)["tuned"]["tunings"]}
    assert [tunings[name]["num_trials"] for name in ("kd", "dkd", "dist", "the baseline")] == [6, 4, 0, 0]


def test_equal_budgets_have_no_warning(results):
    _, lr = write_search(results, LABELS, space=RATE, family="tune_baseline")
    kd, _ = write_search(results, KD, lr=lr)
    dkd, _ = write_search(results, DKD, lr=lr)
    write_compared(results, kd, dkd, lr=lr)
    assert (
        "4 trials (36 epochs) over student.optimizer.lr tuned the baseline (search tune_baseline/search)"
        in lines_of(results)
    )
    assert warnings_of(results) == []


def test_a_comparison_without_any_search_has_no_warning(results):
    write_compared(results, KD, DKD)
    assert warnings_of(results) == []
    line = "no method was tuned by a search in this results folder, and neither was the baseline"
    assert lines_of(results) == [line]
    assert line not in render_text(load(results.root))


@pytest.mark.parametrize(("factor", "is_tuned"), [(1.004, True), (1.01, False)])
def test_values_typed_with_three_digits_are_those_of_the_winner(results, factor, is_tuned):
    dkd, _ = write_search(results, DKD)
    write_compared(results, KD, dkd | {"beta": dkd["beta"] * factor})
    tuned = "4 trials (36 epochs) over method.beta tuned dkd (search tune_dkd/search)"
    other = "the values of dkd are not those that won its search (tune_dkd/search)"
    assert (tuned in lines_of(results), other in lines_of(results)) == (is_tuned, not is_tuned)


def test_a_search_on_other_data_tuned_nothing(results):
    kd, _ = write_search(results, KD, data="other")
    write_compared(results, kd, DKD)
    assert len(lines_of(results)) == 1


def test_fields_in_which_the_trials_differ_are_named(results):
    """Trials with fewer epochs are a usual way to save time."""
    kd, _ = write_search(results, KD, epochs=3)
    write_compared(results, kd, DKD, epochs=9)
    line = "4 trials (12 epochs) over method.alpha, method.temperature tuned kd (search tune_kd/search)"
    assert f"{line}; the trials had other values of student.epochs" in lines_of(results)


def test_trials_of_all_searches_of_a_method_count_and_those_of_another_student_do_not(results):
    write_search(results, KD, trials=5, name="wide")
    write_search(results, KD, trials=7, epochs=3, name="short")
    kd, _ = write_search(results, KD, trials=4)
    write_compared(results, kd, DKD)
    line = "9 trials (81 epochs) over method.alpha, method.temperature tuned kd (searches tune_kd/search, tune_kd/wide)"
    assert line in lines_of(results)


def test_the_fields_of_all_searches_that_count_are_named(results):
    write_search(results, KD, trials=5, name="alpha", space={"method.alpha": uniform(0, 1)})
    kd, _ = write_search(results, KD, space={"method.temperature": loguniform(1, 20)})
    write_compared(results, kd, DKD)
    line = (
        "9 trials (81 epochs) over method.alpha, method.temperature tuned kd (searches tune_kd/alpha, tune_kd/search)"
    )
    assert line in lines_of(results)


def test_integers_are_not_rounded(results):
    """200 and 201 epochs differ by 0.5 %, as values with three digits may."""
    kd, _ = write_search(results, KD, epochs=200)
    write_compared(results, kd, DKD, epochs=201)
    assert any(line.endswith("; the trials had other values of student.epochs") for line in lines_of(results))


def test_a_recipe_that_was_tuned_for_a_method_is_named_beside_the_baseline(results):
    kd, lr = write_search(results, KD, space=SPACES["kd"] | RATE)
    write_compared(results, kd, DKD, lr=lr)
    line = "fields of the student's recipe were searched for kd, and the baseline has the same recipe"
    assert line in lines_of(results)


def test_a_method_tuned_with_another_learning_rate_is_not_tuned(results):
    kd, lr = write_search(results, KD, space=SPACES["kd"] | RATE)
    write_compared(results, kd, DKD, lr=2 * lr)
    assert "the values of kd are not those that won its search (tune_kd/search)" in lines_of(results)


def test_seeds_that_selected_a_method_are_warned_of(results):
    kd, _ = write_search(results, KD, confirm=1)
    write_compared(results, kd, seeds=range(2, 5))
    (warning,) = (line for line in warnings_of(results) if "selected" in line)
    assert warning.startswith("a search of another family selected the hyperparameters of kd with seed 2 too")


def test_a_winning_default_that_no_trial_has_is_that_of_the_experiment(results):
    search = Search(space={"method.beta": loguniform(0.5, 4)}, trials=2, scheduler="none", confirm=1)
    identity = {"student": config_of(DKD)["recipe"], "method": DKD, "data_identity": "d"}
    run = {"config": config_of(DKD | {"beta": 1.0})}
    example = make_search(
        results.root, search, lambda trial: Outcome("done", values=[50.0], run=run), {"method.beta": 8.0},
        family="tune_dkd", identity=identity,
    )  # fmt: skip
    example.confirm({None: [61.0, 62.0, 63.0], 1: [50.0, 51.0, 52.0]}, [50.0, 51.0, 52.0])
    write_compared(results, KD, DKD)
    assert "2 trials (18 epochs) over method.beta tuned dkd (search tune_dkd/search)" in lines_of(results)


def test_only_a_search_of_the_recipe_on_labels_alone_tunes_the_baseline(results):
    write_search(results, LABELS, space=RATE, family="labels")
    write_search(results, KD, space=RATE, family="kd")
    write_search(results, LABELS, space=RATE | {"method.temperature": loguniform(1, 4)}, family="both")
    searches = {search.family: search for search in summarize_searches(results.root)}
    assert {family: tunes_baseline(search) for family, search in searches.items()} == {
        "labels": True,
        "kd": False,
        "both": False,
    }
    assert "to tune methods with the baseline's recipe, add: --set student.optimizer.lr=" in render_search(
        searches["labels"]
    )
    assert "to tune methods" not in render_search(searches["kd"])
