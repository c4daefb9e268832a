"""The figures of all searched fields: their scales, many fields and trials, and the contour of the two most important.

The contour is compared with a plane, which a linear interpolation reproduces.
"""

import re
from itertools import pairwise

import pytest
from search_folders import Outcome, make_search
from wide_search import SPACE, wide_search

from raykd.report.content import ReportContent
from raykd.report.figures.field_scales import scale_of, wrapped
from raykd.report.figures.saved import figure_files
from raykd.report.figures.search import draw_search
from raykd.report.figures.search_contour import draw_contour, why_no_contour
from raykd.report.figures.search_fields import draw_parallel, draw_slices
from raykd.report.figures.svg import LEVEL_COLORS, figure_style
from raykd.report.render.search_page import search_files
from raykd.report.stats.importances import Importances, importances_of
from raykd.spec.search import Search, choice, integer, loguniform, uniform

PLANE = {"method.alpha": uniform(0, 1), "student.optimizer.lr": loguniform(0.001, 1)}
CENTER = {"method.alpha": 0.5, "student.optimizer.lr": 0.1}


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    return wide_search(tmp_path_factory.mktemp("wide")).summary()


@pytest.fixture(scope="module")
def figures(wide):
    return draw_search(wide, importances_of(wide))


@pytest.mark.parametrize(
    ("space", "values", "places"),
    [
        (uniform(2, 4), (2, 3, 4), (0, 0.5, 1)),
        (loguniform(0.01, 1), (0.01, 0.1, 1), (0, 0.5, 1)),
        (integer(1, 100, log=True), (1, 10, 100), (0, 0.5, 1)),
        (choice(1, 10, 100), (1, 10, 100), (0, 0.5, 1)),  # a wide list of numbers has a log scale
        (choice(2, 4, 3), (2, 3, 4), (0, 0.5, 1)),
        (choice(5), (5,), (0.5,)),
        (choice("kd", "dkd"), ("kd", "dkd"), (0.25, 0.75)),
        (choice(1, True), (1, True), (0.25, 0.75)),
        (choice(False, True), (False, True), (0.25, 0.75)),
    ],
    ids=str,
)
def test_a_scale_places_the_values_of_a_field(space, values, places) -> None:
    scale = scale_of(space)
    assert [scale.position(value) for value in values] == pytest.approx(list(places))


@pytest.mark.parametrize(
    ("space", "texts"),
    [
        (uniform(0, 1), ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
        (integer(2, 3), ["2", "3"]),
        (loguniform(1e-6, 1), ["1e-06", "1e-05", "0.0001", "0.001", "0.01", "0.1", "1"]),
        (loguniform(3, 4), ["3", "4"]),  # no round number is in between
        (choice(0.0, 1e-4, 5e-4), ["0", "0.0001", "0.0005"]),
        (choice(1, 2, 3, 1000), ["1", "2", "3", "1000"]),
        (choice("short", "a name that is too long for half of an axis"), ["short", "a name that is too long ..."]),
    ],
    ids=str,
)  # fmt: skip
def test_ticks_are_round_numbers_or_the_values_of_a_list(space, texts) -> None:
    assert [text for _, text in scale_of(space).ticks(56)] == texts


@pytest.mark.parametrize("space", [choice(*map(str, range(1000))), choice(*range(1000)), loguniform(1e-12, 1e12)])
@pytest.mark.parametrize("letters", [26, 60])
def test_ticks_never_overlap(space, letters) -> None:
    ticks = scale_of(space).ticks(letters)
    assert 2 <= len(ticks) < letters / 2
    for (left, text), (right, next_text) in pairwise(ticks):
        assert (right - left) * letters >= (len(text) + len(next_text)) / 2


def test_a_long_name_is_broken_after_dots_and_underscores() -> None:
    assert wrapped("student.optimizer.weight_decay", 20) == "student.optimizer.\nweight_decay"
    assert wrapped("lr", 20) == "lr"
    assert wrapped("averylongnamewithoutanydot", 20) == "averylongnamewith..."


def test_eight_fields_of_every_kind_and_forty_trials_are_in_both_figures(figures) -> None:
    labels = [path.rpartition(".")[2] for path in SPACE]
    for heading in ("Configurations tried", "Field by field"):
        svg = figures[heading].svg
        assert all(f">{label}<" in svg for label in labels), heading
        assert all(f">{text}<" in svg for text in ("kd", "dkd", "True", "False")), heading
        assert len(svg) < 120_000
    parallel = figures["Configurations tried"].figure.axes[0]
    lines = [line for line in parallel.lines if len(line.get_xdata()) == len(SPACE) + 1]
    assert len(lines) == 40
    assert all(-0.001 <= x <= 1.001 for line in lines for x in line.get_xdata())
    assert len([axes for axes in figures["Field by field"].figure.axes if axes.get_visible()]) == len(SPACE)


def test_the_winner_and_the_top_trials_are_emphasized(wide, figures) -> None:
    parallel = figures["Configurations tried"].figure.axes[0]
    lines = [line for line in parallel.lines if len(line.get_xdata()) == len(SPACE) + 1]
    widths = {trial.number: line.get_linewidth() for trial, line in zip(wide.trials, lines, strict=True)}
    thick = {number for number, width in widths.items() if width > 1}
    assert thick == {*wide.best[:5], wide.default_trial.number}
    assert max(widths, key=lambda number: widths[number]) == wide.best[0]


def test_every_metric_of_a_search_has_an_axis(tmp_path) -> None:
    search = Search(space=PLANE, trials=4, metric=("val_top1", "parameters"), scheduler="none", confirm=0)
    example = make_search(
        tmp_path, search, lambda t: Outcome("done", values=(80.0 + t.number, 5000.0 * t.number)), CENTER
    )
    svg = draw_search(example.summary(), None)["Configurations tried"].svg
    assert ">validation top-1 (%)<" in svg
    assert ">parameters<" in svg
    assert ">Pareto-optimal<" in svg


def plane_of(trial) -> Outcome:
    """Return a top-1 that is linear in alpha."""
    return Outcome("done", [50.0 + 40 * trial.configuration["method.alpha"]])


def test_the_contour_interpolates_linearly_on_both_scales(tmp_path) -> None:
    search = Search(space=PLANE, trials=30, sampler="random", scheduler="none", confirm=0)
    summary = make_search(tmp_path, search, plane_of, CENTER).summary()
    importances = importances_of(summary)
    assert why_no_contour(summary, importances) == ""
    with figure_style():
        axes = draw_contour(summary, importances, "plane").figure.axes[0]
    (fill,) = axes.collections
    assert axes.get_xlabel() == "alpha"
    levels = fill.levels[1:-1]
    assert len(levels) == len(LEVEL_COLORS) - 1
    for level, below in zip(levels, fill.get_paths(), strict=False):
        border = (level - 50) / 40  # the line of equal alpha
        assert below.vertices[:, 0].max() == pytest.approx(border, abs=1e-6)


def test_the_contour_shows_the_two_most_important_numeric_fields(wide) -> None:
    shares = {
        "method": 0.5,
        "student.batch_size": 0.3,
        "student.optimizer.nesterov": 0.15,
        "student.optimizer.lr": 0.05,
    }
    with figure_style():
        drawing = draw_contour(wide, Importances(shares, "val_top1", 38, 1), "plane")
    assert drawing.title == "Validation top-1 over batch_size and lr, after 1 epoch"
    assert "interpolates validation top-1 after 1 epoch linearly between 38 trials" in drawing.caption
    assert "The other searched fields vary too." in drawing.caption


@pytest.mark.parametrize(
    ("space", "num_trials", "reason"),
    [
        ({"method": choice("kd", "dkd"), "method.alpha": uniform(0, 1)}, 6, "fewer than two searched fields are"),
        (PLANE, 3, "yet: it requires 4 trials with different values"),
        ({"method.alpha": uniform(0, 1), "student.optimizer.lr": choice(0.1)}, 6, "the trials are on one line"),
    ],
)  # fmt: skip
def test_a_contour_that_cannot_be_drawn_is_one_sentence_on_the_page(tmp_path, space, num_trials, reason) -> None:
    default = {"method": "kd", **CENTER}
    search = Search(space=space, trials=num_trials, sampler="random", scheduler="none", confirm=0)
    example = make_search(tmp_path, search, plane_of, {path: default[path] for path in space})
    summary = example.summary()
    page = search_files(summary, importances_of(summary))[summary.page].decode()
    (sentence,) = re.findall(r'<p class="empty">(There is no contour[^<]*)</p>', page)
    assert reason in sentence
    assert "Two most important fields" not in page


def test_the_figures_have_the_same_bytes_each_time(wide, figures) -> None:
    shares = dict.fromkeys(["method.alpha", "student.model.width"], 0.5)
    with figure_style():
        assert draw_parallel(wide, "search-parallel").svg == figures["Configurations tried"].svg
        assert draw_slices(wide, "search-fields").svg == figures["Field by field"].svg
        first, second = (draw_contour(wide, Importances(shares, "val_top1", 38, 1), "plane") for _ in range(2))
    assert first.svg == second.svg


def test_the_figures_of_the_fields_are_saved_as_files(tmp_path) -> None:
    search = Search(space=PLANE, trials=4, sampler="random", scheduler="none", confirm=0)
    summary = make_search(tmp_path, search, plane_of, CENTER).summary()
    files = figure_files(ReportContent((), tmp_path / "report" / "index.html", (summary,)), ["svg"])
    assert {f"search-{name}.svg" for name in ("parallel", "fields", "plane")} <= {path.name for path in files}
