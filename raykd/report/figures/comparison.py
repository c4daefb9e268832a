"""The gain of each compared method over the baseline: its seeds, their mean and the 95 % interval.

A filled mean has p < 0.05 after Holm's correction. Outliers that would take much of the axis are arrows with numbers.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from raykd.report import wording
from raykd.report.figures.axes import Drawing, add_interval, add_legend, label_rows_axis, rows_axes
from raykd.report.figures.stages import MARKERS
from raykd.report.figures.svg import INK, PAPER, STAGE_COLORS, Medium, figure_style
from raykd.report.stats.comparison import Comparison, MethodSummary
from raykd.report.stats.paired_interval import PairedGain

OUTLIER_SHARE = 0.4  # of the axis: outliers that would take more are clipped
MAX_OUTLIERS = 0.25  # of the methods
BEYOND = 0.5  # an interval is drawn as far as this many times the range of all seeds; with few seeds it may be wider
ARROW = 0.015  # of the axis, from its edge to the arrow of an outlier
OFFSET = 0.16  # of a row: the interval is above its middle, the seeds are below it
SEED: dict[str, Any] = {
    "marker": MARKERS["distilled"],
    "color": STAGE_COLORS["distilled"],
    "markerfacecolor": "none",
    "markersize": 4,
}


def draw_comparison(comparison: Comparison, key: str, medium: Medium = "page") -> Drawing | None:
    """Draw the gain of each method over the baseline, the best method on top; None while no method has a gain.

    key: start of the figure's ids.
    """
    methods = [method for method in comparison.methods if method.gain is not None]
    gains = {method.name: method.gain for method in methods if method.gain is not None}
    if not gains:
        return None
    outliers = _outliers(gains)
    with figure_style(medium):
        figure, axes = rows_axes(list(gains), num_legend_rows=1)
        axes.axvline(0, color=INK, linewidth=1.0, zorder=1)
        axes.set_xlim(*_limits([gain for name, gain in gains.items() if name not in outliers]))
        is_cut = [_add_method(axes, method, row, method.name in outliers) for row, method in enumerate(methods)]
        label_rows_axis(axes, "gain over the baseline", "percentage points")
        add_legend(figure, 4, _legend(methods))
    described = "; ".join(f"{name} {wording.gain(gain)}" for name, gain in gains.items())
    differing = ", ".join(method.name for method in methods if method.differs) or "none"
    parts = ["The bar is the 95 % interval of one method alone."]
    parts += ["An arrow: the bar extends beyond the axis."] if any(is_cut) else []
    parts += [f"Beyond the axis, with its gain: {', '.join(outliers)}."] if outliers else []
    title, description = "Gain of each method over the baseline", f"{described}. Holm p < 0.05: {differing}."
    return Drawing(figure, key, title, description, " ".join(parts))


def _outliers(gains: Mapping[str, PairedGain]) -> list[str]:
    """Return the fewest methods without which the axis of the others is much shorter; [] if there are no such few."""
    kept = dict(gains)
    for _ in range(int(MAX_OUTLIERS * len(gains))):
        del kept[min(kept, key=lambda name: _span(gain for other, gain in kept.items() if other != name))]
        if _span(kept.values()) < (1 - OUTLIER_SHARE) * _span(gains.values()):
            return [name for name in gains if name not in kept]
    return []


def _span(gains: Iterable[PairedGain]) -> float:
    """Return the length of an axis that shows 0 and the gains of all seeds."""
    low, high = _ends(gains)
    return high - low


def _ends(gains: Iterable[PairedGain]) -> tuple[float, float]:
    values = [0.0, *(pair.gain for gain in gains for pair in gain.pairs)]
    return min(values), max(values)


def _limits(gains: list[PairedGain]) -> tuple[float, float]:
    """Return the ends of the axis: all seeds, and the intervals as far as BEYOND permits."""
    low, high = _ends(gains)
    reach = BEYOND * (high - low)
    intervals = [end for gain in gains for end in gain.interval or ()]
    left, right = max(min(low, *intervals, low), low - reach), min(max(high, *intervals, high), high + reach)
    margin = 0.04 * (right - left) or 1.0
    return left - margin, right + margin


def _add_method(axes: Axes, method: MethodSummary, row: int, is_outlier: bool) -> bool:
    """Draw a method in its row. Return whether its interval extends beyond the axis."""
    gain = method.gain
    assert gain is not None, "only methods with a gain are drawn"
    if is_outlier:
        _add_outlier(axes, method, gain, row)
        return False
    is_cut = gain.interval is not None and add_interval(axes, gain.interval, row - OFFSET)
    axes.plot([gain.spread.mean], [row - OFFSET], linestyle="none", zorder=3, **_mean(method.differs))
    axes.plot([pair.gain for pair in gain.pairs], [row + OFFSET] * len(gain.pairs), linestyle="none", **SEED)
    return is_cut


def _add_outlier(axes: Axes, method: MethodSummary, gain: PairedGain, row: int) -> None:
    """Draw an arrow at the edge of the axis, with the gain and its interval as text."""
    is_low = gain.spread.mean < 0
    left, right = axes.get_xlim()
    place = left + (ARROW if is_low else 1 - ARROW) * (right - left)
    style = _mean(method.differs)
    style["marker"] = "<" if is_low else ">"
    axes.plot([place], [row], **style)
    axes.annotate(
        wording.minus(wording.gain(gain)),
        (place, row),
        (8 if is_low else -8, 0),
        textcoords="offset points",
        ha="left" if is_low else "right",
        va="center",
        bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1.0},
    )


def _mean(differs: bool) -> dict[str, Any]:
    """Return the style of a mean."""
    return {"marker": "D", "markersize": 5.5, "color": INK, "markerfacecolor": INK if differs else PAPER}


def _legend(methods: list[MethodSummary]) -> list[Line2D]:
    entries = {
        "mean, Holm p < 0.05": (any(method.differs for method in methods), _mean(True) | {"linestyle": "none"}),
        "mean": (not all(method.differs for method in methods), _mean(False) | {"linestyle": "none"}),
        "95 % interval": (
            any(method.gain and method.gain.interval for method in methods),
            {"color": INK, "linewidth": 1.4, "marker": "|", "markersize": 9, "markevery": (0, 1)},
        ),
        "seed": (True, SEED | {"linestyle": "none"}),
    }
    return [Line2D([0, 1], [0, 0], label=name, **style) for name, (is_shown, style) in entries.items() if is_shown]
