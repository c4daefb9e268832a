"""Reading searches: states, confirmation, intervals and cost against manual results."""

import json
import subprocess
import sys
from dataclasses import replace
from math import log, sqrt

import numpy as np
import pytest
from search_folders import (
    DEFAULT_CONFIGURATION,
    GRID,
    SPACE,
    ExampleSearch,
    Outcome,
    finished_search,
    learning_curve,
    make_search,
    write_cache,
)

from raykd.errors import RaykdError
from raykd.report.read.search_summary import summarize_searches
from raykd.report.search_wording import certainty, cost_lines
from raykd.report.stats.importances import importances_of
from raykd.report.stats.paired_interval import least_gain
from raykd.spec.search import Search, choice, loguniform, uniform
from raykd.store.records import ComputeRecord, TopClasses
from raykd.store.study import SearchFolder


def search_of_done_trials(root, **changes) -> ExampleSearch:
    """Write a random search over two fields. The metric of a trial is `value_of` its configuration."""
    value_of = changes.pop("value_of")
    search = Search(**{"space": SPACE, "trials": 24, "sampler": "random", "scheduler": "none"} | changes)
    return make_search(root, search, lambda trial: Outcome("done", [value_of(trial.configuration)]))


def quantile_of_two_degrees(level: float) -> float:
    """Return the half width of a t-interval with two degrees of freedom, in standard errors, in closed form."""
    return level * sqrt(2 / (1 - level**2))


def test_states_are_counted_and_the_best_trials_are_done_ones(tmp_path):
    summary = finished_search(tmp_path).summary()
    assert (summary.family, summary.name, summary.state) == ("cnn", "search", "done")
    assert [summary.count(state) for state in ("done", "pruned", "failed", "running")] == [4, 7, 1, 0]
    assert summary.num_ended == 12
    done = {trial.number: trial.values[0] for trial in summary.trials if trial.state == "done"}
    assert list(summary.best) == sorted(done, key=lambda number: -done[number])
    assert all(trial.values == () for trial in summary.trials if trial.state != "done")
    assert summary.default_trial.number == 0


def test_a_trial_that_ended_by_its_patience_is_complete_with_its_epochs(tmp_path):
    search = Search(SPACE, trials=1, sampler="random", scheduler="none")
    stopped = Outcome("done", [50.0, 60.0, 55.0], [60.0], rows=3, run={"stopped_early": "no better one"})
    (trial,) = make_search(tmp_path, search, lambda trial: stopped, epochs=9).summary().trials
    assert (trial.state, trial.epochs_trained, trial.epochs) == ("done", 3, 3)


@pytest.mark.parametrize(("keep", "expected"), [("best", [50.0, 60.0, 60.0]), ("last", [50.0, 60.0, 55.0])])
def test_the_curve_is_that_of_the_epoch_that_a_trial_keeps(tmp_path, keep, expected):
    """For metrics that the study does not record by epoch."""
    search = Search(SPACE, metric=("val_top1", "latency_ms"), trials=1, sampler="random", scheduler="none")
    config = {"recipe": {"epochs": 3, "keep": keep}}
    done = Outcome("done", [50.0, 60.0, 55.0], [expected[-1], 1.0], rows=3, run={"config": config})
    (trial,) = make_search(tmp_path, search, lambda trial: done, epochs=3).summary().trials
    assert [value for _, value in trial.curve] == expected and trial.keeps_last == (keep == "last")


def test_the_interval_is_widened_by_the_number_of_configurations_found(tmp_path):
    """Gains 1, 1.5, 0.5: mean 1, std 0.5. Two configurations were found, so the level is 0.975, where t(2) is 6.205."""
    gain = finished_search(tmp_path).gain_over_default()
    assert [pair.gain for pair in gain.pairs] == [1.0, 1.5, 0.5]
    assert quantile_of_two_degrees(0.975) == pytest.approx(6.2053, abs=1e-4)
    half = quantile_of_two_degrees(0.975) * 0.5 / sqrt(3)
    assert gain.interval == pytest.approx((1 - half, 1 + half), rel=1e-9)
    assert (gain.comparisons, gain.verdict) == (2, "not distinguishable at n = 3")


def test_a_gain_significant_for_one_configuration_may_not_be_for_the_best_of_two(tmp_path):
    example = finished_search(tmp_path)
    default, winner = [85.0, 86.0, 87.0], [86.5, 88.0, 88.0]
    example.confirm({None: default, 3: winner}, [80.0, 82.0, 81.0])
    assert example.gain_over_default().verdict == "the winner is better at n = 3"
    example.confirm({None: default, 3: winner, 6: [84.0, 85.0, 86.0]}, [80.0, 82.0, 81.0])
    assert example.gain_over_default().verdict == "not distinguishable at n = 3"


def test_the_gain_over_the_baseline_is_widened_for_all_candidates(tmp_path):
    """The default configuration could have been selected too: three candidates, two of them found by the search."""
    example = finished_search(tmp_path)
    assert [pair.gain for pair in example.gain_over_baseline().pairs] == [6.0, 5.5, 6.5]
    assert (example.gain_over_baseline().comparisons, example.gain_over_default().comparisons) == (3, 2)


def test_a_winning_default_configuration_has_no_gain_over_itself_and_was_selected(tmp_path):
    example = finished_search(tmp_path)
    example.confirm({None: [87.0, 88.0, 89.0], 3: [86.0, 87.5, 87.5], 6: [84.0, 88.0, 86.0]}, [80.0, 82.0, 81.0])
    summary = example.summary()
    assert summary.winner.trial is None
    assert example.gain_over_default() is None
    assert example.gain_over_baseline().comparisons == 3
    assert summary.trial_of_winner is summary.default_trial


def test_a_default_configuration_confirmed_alone_was_not_selected(tmp_path):
    example = finished_search(tmp_path)
    example.confirm({None: [87.0, 88.0, 89.0]}, [80.0, 82.0, 81.0])
    assert example.gain_over_baseline().comparisons == 1


def is_better(gains, comparisons):
    """Return whether the interval of each row of gains is above 0 after a correction for `comparisons`."""
    least = {int(count): least_gain(gains.shape[1], int(count)) for count in np.unique(comparisons)}
    return gains.mean(1) > np.vectorize(least.get)(comparisons) * gains.std(1, ddof=1)


@pytest.mark.parametrize("num_found", [1, 3, 8])
def test_without_any_effect_at_most_one_search_in_forty_calls_its_winner_better(tmp_path, num_found):
    """Simulate searches whose configurations all equal the baseline: at most 2.5 % of the winners may be called better.

    This holds for 2, 3 and 5 seeds: over the baseline, over the default configuration, and over the baseline where the
    default configuration won. The numbers of comparisons are those of the report.
    """
    search = Search(space=SPACE, trials=num_found + 1, scheduler="none", sampler="random", confirm=num_found)
    example = make_search(tmp_path, search, lambda trial: Outcome("done", [80.0]))

    def confirmation_won_by(winner: int | None):
        candidates = {trial: [80.0, 80.5, 81.0 + (trial == winner)] for trial in (None, *range(1, num_found + 1))}
        example.confirm(candidates, [79.0, 80.0, 79.5])
        return example.gain_over_baseline().comparisons, example.gain_over_default()

    (num_default_won, _), (num_other_won, over_default) = confirmation_won_by(None), confirmation_won_by(1)
    draw = np.random.default_rng(0).standard_normal
    for num_seeds in (2, 3, 5):
        num_searches = 60_000
        values, baseline = draw((num_searches, num_found + 1, num_seeds)), draw((num_searches, num_seeds))
        winners = values.mean(2).argmax(1)  # candidate 0 is the default configuration
        winning = values[np.arange(num_searches), winners]
        is_default = winners == 0

        counts = np.where(is_default, num_default_won, num_other_won)
        beats_baseline = is_better(winning - baseline, counts)
        counts = np.full(num_searches, over_default.comparisons)
        beats_default = ~is_default & is_better(winning - values[:, 0], counts)
        for is_called_better in (beats_baseline, beats_default, beats_baseline[is_default]):
            error = sqrt(0.025 * 0.975 / len(is_called_better))
            assert 0.001 < is_called_better.mean() <= 0.025 + 3 * error, (num_seeds, is_called_better.mean())


LR, WIDTH = "student.optimizer.lr", "student.model.width"
STUDENT_SPACE = {"method.alpha": uniform(0, 1), LR: choice(0.001, 0.1), WIDTH: choice(32, 64)}


def search_over_student_recipes(root) -> ExampleSearch:
    """Write two trials: the default recipe (learning rate 0.001, width 32), and another rate and width."""
    search = Search(space=STUDENT_SPACE, trials=8, sampler="random", scheduler="none", confirm=1)
    default_configuration = {"method.alpha": 0.5, LR: 0.001, WIDTH: 32}
    return make_search(root, search, lambda trial: Outcome("done", [80.0]), default_configuration=default_configuration)


def trial_with(example: ExampleSearch, **values) -> int:
    """Return the first trial with these values. values: by the last part of the path."""
    trials = SearchFolder(example.path).trials()
    return next(
        t.number for t in trials if values.items() <= {p.split(".")[-1]: v for p, v in t.configuration.items()}.items()
    )


def test_a_baseline_with_the_winners_recipe_is_named_as_the_one_in_report_json(tmp_path):
    example = search_over_student_recipes(tmp_path)
    example.confirm({None: [60.0, 61.0, 62.0], trial_with(example, lr=0.1): [84.0, 85.0, 86.0]}, [82.0, 83.2, 84.1])
    first, *_, last = certainty(example.summary())
    assert first.startswith("Winner against the baseline with the winner's student recipe: +1.90 points [")
    assert last.startswith("Both students in report.json have the winner's student recipe: student_accuracy_without_kd")


def test_a_baseline_with_another_recipe_is_named_in_the_sentence_of_its_gain(tmp_path):
    example = search_over_student_recipes(tmp_path)
    winner = trial_with(example, lr=0.1, width=64)
    example.confirm({None: [60.0, 61.0, 62.0], winner: [84.0, 85.0, 86.0]}, [63.0, 64.0, 65.0], recipe_of=None)
    line = certainty(example.summary())[0]
    assert line.startswith(
        "Winner against a baseline with another student recipe, so the gain includes that of the recipe "
        f"({LR}: baseline 0.001, winner 0.1; {WIDTH}: baseline 32, winner 64): +21.00 points"
    ), line


def test_a_candidate_that_failed_cannot_win_and_counts_as_one_that_was_tried(tmp_path):
    example = finished_search(tmp_path)
    failed = {6: "seed 2: validation loss became NaN"}
    example.confirm({None: [85.0, 86.0, 87.0], 3: [86.0, 87.5, 87.5], 6: []}, [80.0, 82.0, 81.0], failed=failed)
    summary = example.summary()
    assert (example.gain_over_baseline().comparisons, example.gain_over_default().comparisons) == (3, 2)
    assert "The configuration of trial 6 failed, and so cannot win (seed 2: validation loss became NaN)." in certainty(
        summary
    )


def test_a_failed_default_configuration_or_baseline_has_no_gain_over_it(tmp_path):
    example = finished_search(tmp_path)
    failed = {None: "seed 0: out of memory", "baseline": "seed 1: loss became NaN"}
    example.confirm({None: [], 3: [86.0, 87.5, 87.5]}, [], failed=failed)
    assert (example.gain_over_default(), example.gain_over_baseline(), example.summary().winner.trial) == (
        None,
        None,
        3,
    )
    lines = certainty(example.summary())
    assert lines[0] == "No gain over the baseline is known: seed 1: loss became NaN."
    assert "The default configuration failed, and so cannot win (seed 0: out of memory)." in lines


def test_a_lower_loss_is_a_positive_gain(tmp_path):
    search = Search(space=SPACE, trials=3, metric="val_loss", grace_epochs=1, confirm=1)
    example = make_search(tmp_path, search, lambda trial: Outcome("done", [0.5 - 0.1 * trial.number]))
    example.confirm({None: [0.5, 0.6, 0.7], 2: [0.4, 0.5, 0.5]}, [0.9, 0.9, 0.9], metric="val_loss")
    summary = example.summary()
    assert summary.best == (2, 1, 0)
    assert [pair.gain for pair in example.gain_over_default().pairs] == pytest.approx([0.1, 0.1, 0.2])


def test_waiting_points_of_a_grid_are_not_trials(tmp_path):
    search = Search(space=GRID, sampler="grid", scheduler="none", trials=2, confirm=0)
    example = make_search(
        tmp_path, search, lambda trial: Outcome("done", [80.0]), default_configuration={"method.alpha": 0.5}
    )
    assert len(SearchFolder(example.path).trials()) == 3
    assert [trial.number for trial in example.summary().trials] == [0, 1]
    assert example.summary().state == "done"


def test_a_locked_search_is_running_and_an_unlocked_one_interrupted(tmp_path):
    search = Search(space=SPACE, trials=8, grace_epochs=1)
    example = make_search(tmp_path, search, lambda trial: Outcome("running", [10.0, 20.0]), num_trials=2)
    with SearchFolder(example.path).lock():
        assert example.summary().state == "running"
    assert example.summary().state == "interrupted"


def test_a_search_is_done_once_it_is_confirmed_as_required(tmp_path):
    example = finished_search(tmp_path)
    assert example.summary().state == "done"
    example.confirm({None: [1.0, 2.0, 3.0]}, [1.0, 2.0, 3.0], num_requested=1)
    assert example.summary().state == "interrupted"
    (example.path / "confirmed.json").unlink()
    assert example.summary().state == "interrupted"


def test_a_search_whose_trials_all_failed_is_failed(tmp_path):
    search = Search(space=SPACE, trials=3, grace_epochs=1)
    summary = make_search(tmp_path, search, lambda _: Outcome("failed", reason="NaN")).summary()
    assert (summary.state, summary.winner, summary.best) == ("failed", None, ())


def test_the_best_trials_of_several_metrics_are_pareto_optimal(tmp_path):
    values = {0.1: (80.0, 1.0), 0.5: (79.0, 2.0), 0.9: (85.0, 3.0)}
    search = Search(
        space=GRID, sampler="grid", scheduler="none", metric=("val_top1", "latency_ms"), confirm=0, trials=3
    )
    outcome_of = lambda trial: Outcome("done", values=values[trial.configuration["method.alpha"]])  # noqa: E731
    summary = make_search(tmp_path, search, outcome_of).summary()
    assert summary.best == (2, 0)
    assert certainty(summary)[1].startswith("The first Pareto-optimal configuration is trained with the experiment's")


def test_cost_is_seconds_times_devices_with_missing_times_estimated(tmp_path):
    """Four done trials take 9 s each. At 1 s per epoch, the others take 4 x 1 + 3 x 3 (pruned) and 2 s (failed)."""
    cost = finished_search(tmp_path).summary().cost
    assert (cost.device, cost.devices_of_trial) == ("CPU", 2)
    assert cost.epochs_trained == 36 + 4 + 9 + 2
    assert cost.device_seconds == pytest.approx(2 * (36 + 4 + 9 + 2))
    assert (cost.num_timed, cost.num_estimated) == (12, 8)
    assert cost.saved_epochs == 4 * 8 + 3 * 6
    assert cost.saved_device_seconds == pytest.approx(2 * (4 * 8 + 3 * 6))


def test_the_cost_with_gpus_is_in_gpu_seconds(tmp_path):
    example = finished_search(tmp_path)
    example.update(gpus=0.25)
    cost = example.summary().cost
    assert cost.device == "GPU"
    assert cost.device_seconds == pytest.approx(0.25 * 51)


def test_unrecorded_epochs_are_estimated_at_the_trials_own_pace(tmp_path):
    """The done trial takes 2 s per epoch. One pruned trial recorded 2 of its 3 epochs, 1 s each."""
    search = Search(space=SPACE, trials=3, grace_epochs=1)
    outcomes = [
        Outcome("done", learning_curve(80, 9), seconds=18.0),
        Outcome("pruned", learning_curve(70, 3), rows=2),
        Outcome("pruned", learning_curve(70, 3), rows=3),
    ]
    trials = make_search(tmp_path, search, lambda trial: outcomes[trial.number]).summary().trials
    assert [(trial.seconds, trial.is_estimated) for trial in trials] == [(18.0, False), (3.0, True), (3.0, False)]


def test_no_time_is_estimated_if_no_trial_recorded_one(tmp_path):
    search = Search(space=SPACE, trials=2, grace_epochs=1)
    summary = make_search(tmp_path, search, lambda _: Outcome("pruned", [10.0])).summary()
    assert [trial.seconds for trial in summary.trials] == [None, None]
    assert (summary.cost.device_seconds, summary.cost.saved_device_seconds) == (None, None)
    assert summary.cost.saved_epochs == 16


def test_a_shared_cache_is_compared_with_the_passes_it_saved(tmp_path):
    """The trials train 51 epochs. Images have 6, 6, 3 and 0 views, 5 on average, filled in 10 s: 2 s per pass."""
    example = finished_search(tmp_path)
    write_cache(tmp_path, "logits", [6, 6, 3, 0])
    example.update(fill_seconds=10.0, cache="logits")
    teacher = example.summary().cost.teacher
    assert (teacher.source, teacher.passes, teacher.views) == ("cache", 51, 5.0)
    assert teacher.live_seconds == pytest.approx(51 * 2.0)


@pytest.mark.parametrize(("read", "views"), [("a-logits", 6.0), ("b-embeddings", 2.0)])
def test_the_views_are_those_of_the_cache_that_the_trials_read(tmp_path, read, views):
    """Both caches are of one teacher and data set, with and without embeddings: only their names differ."""
    example = finished_search(tmp_path)
    write_cache(tmp_path, "a-logits", [6, 6])
    write_cache(tmp_path, "b-embeddings", [2, 2], embedding_width=64)
    example.update(fill_seconds=10.0, cache=read)
    teacher = example.summary().cost.teacher
    assert teacher.views == views
    assert teacher.live_seconds == pytest.approx(51 * 10.0 / views)


def test_a_cache_filled_earlier_or_deleted_has_no_live_seconds(tmp_path):
    example = finished_search(tmp_path)
    write_cache(tmp_path, "logits", [6, 6, 3, 0])
    example.update(cache="logits")
    assert example.summary().cost.teacher.views == 5.0
    assert example.summary().cost.teacher.live_seconds is None, "this search filled nothing"
    example.update(fill_seconds=10.0, cache="gone")
    assert example.summary().cost.teacher.views is None
    example.update(cache="../elsewhere")
    with pytest.raises(RaykdError, match=r"cache is '\.\./elsewhere', which is not the name of a folder"):
        example.summary()


def test_a_live_teacher_is_reported_as_live(tmp_path):
    search = Search(space=SPACE, trials=1, grace_epochs=1)
    live = Outcome("done", learning_curve(80, 9), run={"compute": ComputeRecord("cpu", "fp32", 2, teacher="live")})
    assert make_search(tmp_path, search, lambda _: live).summary().cost.teacher.source == "live"


def test_trials_that_read_the_top_classes_are_reported_with_their_number(tmp_path):
    search = Search(space=SPACE, trials=1, grace_epochs=1)
    compute = ComputeRecord("cpu", "fp32", 2, teacher="cache", top_classes=TopClasses(16, 1000))
    cached = Outcome("done", learning_curve(80, 9), run={"compute": compute})
    cost = make_search(tmp_path, search, lambda _: cached).summary().cost
    assert cost.teacher.top_classes == TopClasses(16, 1000)
    assert cost_lines(cost)[-1].startswith("The teacher's logits of the top 16 of 1,000 classes were cached")


@pytest.mark.parametrize(
    ("value_of", "field"),
    [
        (lambda configuration: 80 + configuration["method.alpha"], "method.alpha"),
        (lambda configuration: 80 + log(configuration["method.temperature"]), "method.temperature"),
    ],
)
def test_the_field_that_determines_the_metric_is_the_important_one(tmp_path, value_of, field):
    importances = importances_of(search_of_done_trials(tmp_path, value_of=value_of).summary())
    assert next(iter(importances.shares)) == field
    assert importances.shares[field] > 0.9
    assert sum(importances.shares.values()) == pytest.approx(1)
    assert (importances.num_trials, importances.after) == (24, None)


def test_importances_use_the_first_rung_if_most_trials_were_stopped(tmp_path):
    """One of twelve trials failed, the others finished the first epoch, and four finished all epochs."""
    summary = finished_search(tmp_path).summary()
    importances = importances_of(summary)
    assert (importances.num_trials, importances.after) == (11, 1)
    assert importances_of(summary) == importances


@pytest.mark.parametrize(
    "changes",
    [{"trials": 3}, {"space": {"method.alpha": uniform(0, 1)}}, {"value_of": lambda configuration: 80.0}],
    ids=["three trials", "one field", "one value"],
)
def test_importances_require_trials_fields_and_different_values(tmp_path, changes):
    example = search_of_done_trials(
        tmp_path, **{"value_of": lambda configuration: 80 + configuration["method.alpha"]} | changes
    )
    assert importances_of(example.summary()) is None


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"family": "vit"}, "family is 'vit', the folder has 'cnn'"),
        ({"epochs": "9"}, "field 'epochs' is '9', not an integer"),
        ({"seeds": "0"}, "field 'seeds' is '0', not a list"),
        ({"search": {"kind": "hunt"}}, "kind 'hunt' is not one of search"),
        ({"search": {"kind": "search", "space": {}}}, "name at least one field"),
    ],
)
def test_an_invalid_search_record_is_named_in_one_line(tmp_path, changes, complaint):
    example = finished_search(tmp_path)
    example.update(**changes)
    with pytest.raises(RaykdError, match=complaint) as caught:
        summarize_searches(tmp_path)
    assert f"'{example.path / 'search.json'}' is damaged: " in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"winner": 3}, "winner is 3, but there are 3 candidates"),
        ({"metric": "test_top1"}, "field 'metric' is 'test_top1', not 'val_top1' or 'val_loss'"),
        ({"seeds": [0, 1]}, "are not 2 numbers, one per seed"),
        ({"candidates": {}}, "field 'candidates' is {}, not a list"),
        ({"baseline": {}}, "field 'baseline.trial' is missing"),
        (
            {"baseline": {"trial": None, "configuration": {}, "runs": [], "values": [1, None, 2]}},
            r"field 'baseline.values.1' is None, not a finite number",
        ),
    ],
)
def test_an_invalid_confirmation_is_named_in_one_line(tmp_path, changes, complaint):
    path = finished_search(tmp_path).path / "confirmed.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(RaykdError, match=complaint) as caught:
        summarize_searches(tmp_path)
    assert f"'{path}' is damaged: " in str(caught.value)


def test_a_partly_written_journal_is_read_and_a_damaged_one_refused(tmp_path):
    example = finished_search(tmp_path)
    journal = example.path / "study.journal"
    content = journal.read_bytes()
    journal.write_bytes(content + b'{"op_code": 4, "trial')
    assert example.summary().num_ended == 12
    journal.write_bytes(b"")
    assert example.summary().trials == ()
    journal.write_bytes(content[:300] + b"\x00\n" + content[300:])
    with pytest.raises(RaykdError, match=r"study\.journal' is damaged: "):
        example.summary()


def test_a_damaged_history_of_a_trial_is_named_in_one_line(tmp_path):
    example = finished_search(tmp_path)
    path = example.path / "trials/0003/history.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(RaykdError, match=r"0003/history\.parquet' is damaged: "):
        example.summary()


def test_searches_are_sorted_and_hidden_folders_ignored(tmp_path):
    assert summarize_searches(tmp_path) == ()
    finished_search(tmp_path, name="second")
    finished_search(tmp_path, name="first")
    (tmp_path / ".ray" / "x").mkdir(parents=True)
    (tmp_path / ".ray" / "x" / "search.json").write_text("{}")
    assert [summary.name for summary in summarize_searches(tmp_path)] == ["first", "second"]


def test_a_trial_with_fewer_epochs_is_done_after_its_own_epochs(tmp_path):
    space = {"student.epochs": choice(4, 9), "method.temperature": loguniform(1, 20)}
    search = Search(space=space, trials=1, grace_epochs=1)
    short = Outcome("done", learning_curve(80, 4), run={"config": {"recipe": {"epochs": 4}}})
    (trial,) = (
        make_search(
            tmp_path, search, lambda _: short, default_configuration=DEFAULT_CONFIGURATION | {"student.epochs": 4}
        )
        .summary()
        .trials
    )
    assert (trial.epochs_trained, trial.epochs) == (4, 4)


def test_a_report_without_a_search_loads_no_optuna(tmp_path):
    code = (
        "import sys; from pathlib import Path; import raykd.report.build; "
        "from raykd.report.read.search_summary import summarize_searches; "
        f"assert summarize_searches(Path({str(tmp_path)!r})) == (); print('optuna' in sys.modules)"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout == "False\n"


def test_the_winner_of_an_unconfirmed_search_is_the_best_so_far(tmp_path):
    summary = replace(finished_search(tmp_path).summary(), confirmation=None)
    assert summary.winner.trial == summary.best[0]
