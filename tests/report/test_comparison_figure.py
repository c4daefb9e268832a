"""The figure of the compared methods: its intervals, its seeds, and outliers that would stretch its axis."""

import pytest
from matplotlib.axes import Axes
from test_comparison import write_comparison

from raykd.report.build import build, load
from raykd.report.figures.axes import Drawing
from raykd.report.figures.comparison import draw_comparison
from raykd.report.figures.svg import INK, PAPER, STAGE_COLORS

FAR = (40.0, 41.2, 42.0)  # the baselines are 80, 81 and 82
NEAR = {"kd": (81.0, 82.1, 83.0), "dkd": (81.2, 82.0, 83.5), "crd": (80.1, 81.9, 82.2)}


def drawing_of(results, scores) -> Drawing:
    write_comparison(results, scores)
    comparison = load(results.root).summaries[0].comparison
    assert comparison is not None
    drawing = draw_comparison(comparison, "key")
    assert drawing is not None
    return drawing


def means(axes: Axes) -> dict[float, str]:
    """Return {mean gain: fill} of the mean of each method that is to scale."""
    lines = [line for line in axes.lines if line.get_marker() == "D" and line.get_markeredgecolor() == INK]
    return {float(line.get_xdata()[0]): line.get_markerfacecolor() for line in lines}


def arrows(axes: Axes) -> list[str]:
    return [line.get_marker() for line in axes.lines if line.get_marker() in ("<", ">")]


def test_an_interval_has_caps_and_seeds_are_open_marks_beside_it(results):
    axes = drawing_of(results, NEAR).figure.axes[0]
    caps = [line for line in axes.lines if line.get_marker() == "|"]
    assert len(caps) == 2 * len(NEAR)
    seeds = [line for line in axes.lines if line.get_color() == STAGE_COLORS["distilled"]]
    assert [len(line.get_xdata()) for line in seeds] == [3] * len(NEAR)
    assert all(line.get_markerfacecolor() == "none" and line.get_markersize() < 5 for line in seeds)
    assert {line.get_ydata()[0] for line in seeds}.isdisjoint({line.get_ydata()[0] for line in caps})


def test_the_mean_is_filled_where_holm_p_is_below_5_percent(results):
    drawing = drawing_of(results, {"kd": (90.0, 91.2, 92.0), "dkd": (80.5, 80.9, 82.2)})
    first, second = sorted(means(drawing.figure.axes[0]).items())
    assert first[1] == PAPER and second == (pytest.approx((10 + 10.2 + 10) / 3), INK)
    assert ">mean, Holm p &lt; 0.05<" in drawing.svg and "Holm p &lt; 0.05: kd." in drawing.svg


def test_an_outlier_that_would_take_half_of_the_axis_is_an_arrow_with_its_gain(results):
    drawing = drawing_of(results, {**NEAR, "at": FAR})
    axes = drawing.figure.axes[0]
    assert axes.get_xlim()[0] > -10 and arrows(axes) == ["<"]
    (text,) = (text.get_text() for text in axes.texts)
    assert text.startswith("\N{MINUS SIGN}39.93 [")
    assert drawing.caption.endswith("Beyond the axis, with its gain: at.")
    assert "at -39.93 [" in drawing.svg, "the description has every method"


def test_methods_with_similar_gains_and_two_of_few_methods_are_to_scale(results):
    """A quarter of three methods is less than one method."""
    for scores in (NEAR | {"sp": (79.4, 80.6, 81.5)}, {"kd": NEAR["kd"], "dkd": NEAR["dkd"], "at": FAR}):
        drawing = drawing_of(results, scores)
        assert len(means(drawing.figure.axes[0])) == len(scores) and "Beyond the axis" not in drawing.caption


def test_a_very_wide_interval_ends_in_arrows(results):
    drawing = drawing_of(results, {"kd": (81.0, 84.0, 81.5)})
    assert arrows(drawing.figure.axes[0]) == ["<", ">"] and "An arrow" in drawing.caption


def test_the_page_has_the_figure_for_wide_and_for_narrow_windows(results):
    write_comparison(results, NEAR)
    page = build(results.root).page.read_text(encoding="utf-8")
    figure = page.split('<figure class="wide">')[1].split("</figure>")[0]
    wide, narrow = figure.split('<div class="on-narrow">')
    assert wide.count("<svg") == narrow.count("<svg") == 1
    assert 'viewBox="0 0 698.4 ' in wide and 'viewBox="0 0 331.2 ' in narrow
