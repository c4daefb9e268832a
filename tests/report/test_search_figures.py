"""The figures of a search: their descriptions, and unusual or missing data."""

import re

import pytest
from nightly import nightly_except
from search_folders import DEFAULT_CONFIGURATION, GRID, SPACE, Outcome, finished_search, learning_curve, make_search

from raykd.report.figures.search import draw_search
from raykd.report.figures.search_contour import rank_groups
from raykd.report.figures.trial_marks import window_of
from raykd.report.stats.importances import importances_of
from raykd.spec.search import Search, choice, integer, loguniform

HEADINGS = [
    "Configurations tried",
    "Field by field",
    "Two most important fields after 1 epoch",
    "Learning curves",
    "Trial by trial",
    "Confirmation with other seeds",
    "Importance of each field (fANOVA)",
]


CONTOUR, IMPORTANCES = HEADINGS[2], HEADINGS[-1]


def drawn(summary):
    return draw_search(summary, importances_of(summary))


def description_of(drawing) -> str:
    """Return the title and the description of a figure."""
    title, description = re.findall(r"<(?:title|desc)[^>]*>([^<]*)</", drawing.svg)[:2]
    return f"{title}: {description}"


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    return drawn(finished_search(tmp_path_factory.mktemp("figures")).summary())


def grid_search(tmp_path, outcomes, space=GRID, default_configuration=DEFAULT_CONFIGURATION, **changes):
    """Return a search over a grid. outcomes: by trial number."""
    fields = {"sampler": "grid", "scheduler": "none", "confirm": 0, **changes}
    search = Search(space=space, **fields)
    return make_search(
        tmp_path, search, lambda trial: outcomes[trial.number], default_configuration=default_configuration
    ).summary()


def test_a_finished_search_has_seven_figures_that_fit_a_page(figures):
    assert list(figures) == HEADINGS
    for drawing in figures.values():
        assert "<style" not in drawing.svg
        assert "http" not in drawing.svg
        assert "#0102" not in drawing.svg  # a placeholder color that was not replaced
        assert len(drawing.svg) < 40_000
    ids = [name for drawing in figures.values() for name in re.findall(r'\bid="([^"]*)"', drawing.svg)]
    assert len(ids) == len(set(ids))


def test_the_configurations_figure_names_the_best_trials(tmp_path, figures):
    summary = finished_search(tmp_path).summary()
    best = summary.best_trial
    description = description_of(figures["Configurations tried"])
    assert description.startswith("validation top-1 over alpha, temperature: ")
    assert (
        f"Best first: trial {best.number} {best.values[0]:.2f} % at alpha {best.configuration['method.alpha']:.4g}"
        in description
    )
    assert "12 of 12 trials ended: 4 done, 7 pruned, 1 failed." in description
    for heading in HEADINGS[:3]:
        for entry in ("winner", "default configuration", "done", "pruned", "failed"):
            assert f">{entry}<" in figures[heading].svg, heading


def test_the_history_describes_each_new_best_trial(tmp_path):
    outcomes = [Outcome("done", [80.0]), Outcome("done", [79.0]), Outcome("done", [82.5])]
    drawing = drawn(grid_search(tmp_path, outcomes))["Trial by trial"]
    assert "Best so far: trial 0 80.00 %; trial 2 82.50 %." in description_of(drawing)


def test_learning_curves_describe_where_each_trial_ended(figures):
    description = description_of(figures["Learning curves"])
    assert re.search(r"trial 1 \d\d\.\d\d % after epoch 1;", description)
    assert re.search(r"trial 3 \d\d\.\d\d % after epoch 9;", description)
    assert "rungs" in figures["Learning curves"].caption


@pytest.mark.parametrize(
    ("keeps", "words"),
    [
        (["best", "best"], "The best epoch so far of each trial;"),
        (["last", "last"], "The latest epoch of each trial;"),
        (["best", "last"], "The kept epoch so far of each trial;"),
    ],
)
def test_learning_curves_state_which_epoch_trials_keep(tmp_path, keeps, words):
    runs = [{"config": {"recipe": {"epochs": 2, "keep": keep}}} for keep in keeps]
    outcomes = [Outcome("done", [70.0, 60.0], run=run) for run in runs]
    space = {"method.alpha": choice(0.3, 0.5)}
    drawing = drawn(grid_search(tmp_path, outcomes, space, {"method.alpha": 0.5}))["Learning curves"]
    assert drawing.caption.startswith(words)


def test_the_confirmation_describes_each_gain_and_the_selection(figures):
    description = description_of(figures["Confirmation with other seeds"])
    assert "default: +1.00, +1.50, +0.50, mean +1.00 points [-0.79, +2.79], not distinguishable at n = 3" in description
    assert (
        "baseline: +6.00, +5.50, +6.50, mean +6.00 points [+3.79, +8.21], the winner is better at n = 3" in description
    )
    assert "selected from 3 configurations with these seeds" in figures["Confirmation with other seeds"].caption


def test_importances_state_the_number_of_trials_and_the_epoch(figures):
    assert re.search(r"alpha \d+ %", description_of(figures[IMPORTANCES]))
    assert "after 1 epoch, over 11 trials" in figures[IMPORTANCES].caption


def test_colors_state_the_epoch_of_their_values(figures):
    """The winner may be behind after the first epoch."""
    svg = figures[CONTOUR].svg
    assert ">validation top-1<" in svg and ">after 1 epoch<" in svg, "the legend's title"
    assert "need not be ahead after 1 epoch" in figures[CONTOUR].caption


def test_several_metrics_have_a_trade_off_instead_of_curves(tmp_path):
    values = [(80.0, 1.0), (79.0, 2.0), (85.0, 3.0)]
    outcomes = [Outcome("done", values=pair) for pair in values]
    figures = drawn(grid_search(tmp_path, outcomes, metric=("val_top1", "latency_ms")))
    assert "Learning curves" not in figures
    description = description_of(figures["Trade-off"])
    assert "validation top-1 (%) against latency (ms)" in description
    assert "Pareto-optimal: trial 0 80.00 %, 1.00 ms; trial 2 85.00 %, 3.00 ms." in description


def test_one_field_is_drawn_against_the_metric(tmp_path):
    search = Search(space={"method.temperature": loguniform(1, 20)}, trials=3, grace_epochs=1)
    default_configuration = {"method.temperature": 4.0}
    figures = drawn(
        make_search(
            tmp_path, search, lambda t: Outcome("done", [80.0 + t.number]), default_configuration=default_configuration
        ).summary()
    )
    assert "1 plot of validation top-1, over temperature." in description_of(figures["Field by field"])
    assert not {"Configurations tried", IMPORTANCES} & figures.keys()


def test_values_that_are_not_numbers_are_evenly_spaced(tmp_path):
    space = {"student.model": choice("resnet8", "<i>vit"), "student.optimizer.nesterov": choice(True, False)}
    default_configuration = {"student.model": "resnet8", "student.optimizer.nesterov": False}
    outcomes = [Outcome("done", [80.0 + number]) for number in range(4)]
    figures = drawn(grid_search(tmp_path, outcomes, space, default_configuration, trials=4))
    for heading in ("Configurations tried", "Field by field"):
        assert "over model, nesterov" in description_of(figures[heading])
        assert all(f">{text}<" in figures[heading].svg for text in ("resnet8", "&lt;i&gt;vit", "True", "False"))
    assert "Two most important fields" not in figures
    assert "<i>" not in "".join(drawing.svg for drawing in figures.values() if drawing)


def test_a_list_of_numbers_is_an_axis(tmp_path):
    space = {"student.epochs": integer(2, 3), "method.temperature": choice(0.1, 1, 10)}
    outcomes = [Outcome("done", [80.0 + number]) for number in range(6)]
    figures = drawn(grid_search(tmp_path, outcomes, space, {"student.epochs": 2, "method.temperature": 1}, trials=6))
    for heading in ("Configurations tried", "Field by field"):
        assert all(f">{text}<" in figures[heading].svg for text in ("0.1", "1", "10"))
    title = description_of(figures["Two most important fields"])
    assert title.startswith(("Validation top-1 over epochs and temp", "Validation top-1 over temperature and epochs"))


OUTCOMES = {
    "failed": Outcome("failed", reason="NaN"),
    "running": Outcome("running"),
    "reported": Outcome("running", [10.0]),
    "pruned at 0": Outcome("pruned", [0.0]),
    "all equal": Outcome("done", [80.0]),
}


@pytest.mark.parametrize("outcome", OUTCOMES.values(), ids=OUTCOMES)
@pytest.mark.parametrize("metric", nightly_except(["val_top1"], ["val_top1", "val_loss"]))
def test_every_outcome_of_the_trials_can_be_drawn(tmp_path, outcome, metric):
    search = Search(space=SPACE, trials=5, grace_epochs=1, metric=metric)
    figures = drawn(make_search(tmp_path, search, lambda _: outcome).summary())
    assert list(figures) == [heading for heading in HEADINGS if heading != CONTOUR]
    has_value = outcome.state in ("done", "pruned")
    assert (figures["Configurations tried"] is not None) == (figures["Trial by trial"] is not None) == has_value
    assert (figures["Learning curves"] is not None) == bool(outcome.curve)
    assert figures["Confirmation with other seeds"] is None
    assert figures[IMPORTANCES] is None


def test_a_search_without_trials_has_no_figures(tmp_path):
    search = Search(space=SPACE, trials=5, grace_epochs=1)
    assert set(drawn(make_search(tmp_path, search, lambda _: Outcome(), num_trials=0).summary()).values()) == {None}


def test_a_confirmation_with_one_seed_has_no_interval(tmp_path):
    search = Search(space=SPACE, trials=2, grace_epochs=1, confirm=1)
    example = make_search(
        tmp_path,
        search,
        lambda t: Outcome("done", learning_curve(80 + t.number, 9)),
        default_configuration=DEFAULT_CONFIGURATION,
    )
    example.update(seeds=[4])
    example.confirm({None: [80.0], 1: [81.0]}, [79.0])
    drawing = drawn(example.summary())["Confirmation with other seeds"]
    assert "default: +1.00, mean +1.00 points, one seed: no interval" in description_of(drawing)


def test_color_groups_have_about_the_same_size_and_equal_values_share_one(tmp_path):
    tops = [10.0, 80.0, 81.0, 82.0, 83.0, 84.0, 85.0, 86.0, 87.0, 87.0]
    space = {"student.epochs": integer(1, 10)}
    outcomes = [Outcome("done", [top]) for top in tops]
    summary = grid_search(tmp_path, outcomes, space, {"student.epochs": 1}, trials=10)
    scored = [(trial, trial.values[0]) for trial in summary.trials]
    assert [[value for _, value in group] for group in rank_groups(scored, sign=1)] == [
        [10.0, 80.0], [81.0, 82.0], [83.0, 84.0], [85.0, 86.0], [87.0, 87.0],
    ]  # fmt: skip


@pytest.mark.parametrize(("metric", "sign"), [("val_top1", 1), ("val_loss", -1)])
def test_a_trial_at_chance_level_does_not_compress_the_axis(metric, sign):
    good = [sign * value for value in (88.0, 88.2, 88.4, 88.6, 88.8, 89.0)]
    window = window_of(metric, [*good, sign * 10.0], [*good, sign * 10.0])
    assert window.low < window.clip(sign * 10.0) < window.high
    assert window.clip(sign * 10.0) == window.edge != sign * 10.0
    assert all(window.clip(value) == value for value in good)
    assert window.high - window.low < 15
    assert window_of(metric, good, good).cut is None
