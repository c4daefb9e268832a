"""The marks and lines of trials, the same in every figure of a search.

filled circle  done          hollow circle  pruned, the larger the more epochs it trained
star           the winner    square         the default configuration     cross  failed

A line is black for a done trial, and dashed for one that has not ended. Thick blue is the winner, orange the default
configuration, gray a pruned trial, and red a failed one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from raykd.report.figures.svg import BAD, INK, LEVEL_COLORS, PAPER, QUIET, STAGE_COLORS
from raykd.report.read.search_results import SearchSummary, TrialSummary
from raykd.report.stats.metrics import SEARCH_METRICS

SIZES = {"o": 6.5, "s": 7.5, "*": 12.0}  # points
SMALLEST, LARGEST = 3.0, 8.0  # points, of a trial that was pruned after no epoch, and before its last
WINNER, DEFAULT = STAGE_COLORS["distilled"], STAGE_COLORS["baseline"]
UNFINISHED = (4, 1.5)  # dashes of a trial that has not ended
FAR_OUT = 3.0  # quartile distances: trials that are worse by more are drawn at the edge
_PRUNED: dict[str, Any] = {
    "marker": "o",
    "markersize": 5.0,
    "markerfacecolor": PAPER,
    "markeredgecolor": QUIET,
    "markeredgewidth": 1.0,
}
_FAILED: dict[str, Any] = {"marker": "x", "markersize": 5.5, "markeredgecolor": BAD, "markeredgewidth": 1.4}


@dataclass(frozen=True)
class Window:
    """The part of an axis that a figure shows, from low to high. Values worse than `cut` are drawn at `edge`."""

    low: float
    high: float
    cut: float | None = None
    edge: float = 0.0
    is_more_better: bool = True

    def clip(self, value: float) -> float:
        """Return `value`, or the edge if the value is outside the window."""
        if self.cut is None or (value >= self.cut if self.is_more_better else value <= self.cut):
            return value
        return self.edge


def window_of(metric: str, settled: Sequence[float], shown: Sequence[float], far_out: float = FAR_OUT) -> Window:
    """Return the window from the best of the values `shown` to the worst, at most `far_out` quartile distances away.

    settled: the values whose quartiles count. Without a limit, one trial at chance level would press all others into
    a line.
    """
    sign = SEARCH_METRICS[metric].sign
    ranked, scores = sorted(sign * value for value in settled or shown), [sign * value for value in shown]
    lower, upper = ranked[len(ranked) // 4], ranked[(3 * len(ranked)) // 4]
    best, worst = max(scores), min(scores)
    low = max(worst, lower - far_out * max(upper - lower, 0.02 * abs(lower)))
    margin = 0.06 * (best - low) or 0.02 * abs(best) or 1.0
    is_cut = low > worst
    bottom = low - (2 if is_cut else 1) * margin
    ends = sorted((sign * bottom, sign * (best + margin)))
    edge = sign * (low - margin) if is_cut else sign * low
    return Window(ends[0], ends[1], sign * low if is_cut else None, edge, sign > 0)


def line_style(summary: SearchSummary, trial: TrialSummary) -> dict[str, Any]:
    """Return the style of a trial's line."""
    if trial is summary.trial_of_winner:
        return {"color": WINNER, "linewidth": 2.2, "zorder": 4}
    if trial is summary.default_trial:
        return {"color": DEFAULT, "linewidth": 1.6, "zorder": 3}
    if trial.state in ("pruned", "failed"):
        return {"color": QUIET if trial.state == "pruned" else BAD, "linewidth": 0.8, "zorder": 2}
    dashes = UNFINISHED if trial.state == "running" else (1, 0)
    return {"color": INK, "linewidth": 0.8, "alpha": 0.6, "zorder": 2, "dashes": dashes}


def add_trial(axes: Axes, summary: SearchSummary, trial: TrialSummary, x: float, y: float, color: str) -> None:
    """Draw a trial that ended. `color` fills a done one, whose outline keeps it legible on any background."""
    axes.plot([x], [y], linestyle="none", **_mark_of(summary, trial, color))


def _mark_of(summary: SearchSummary, trial: TrialSummary, color: str) -> dict[str, Any]:
    if trial.state == "done":
        shape = _shape_of(summary, trial)
        return {**_done(shape, color), "zorder": 4 if shape != "o" else 3}
    if trial.state == "pruned":
        share = trial.epochs_trained / max(1, trial.epochs)
        return {**_PRUNED, "markersize": SMALLEST + (LARGEST - SMALLEST) * share, "zorder": 2}
    return {**_FAILED, "zorder": 2}


def add_trials(axes: Axes, summary: SearchSummary, x: Mapping[int, float]) -> Window:
    """Draw the first metric of the trials at `x` {number: position}. A trial without a value is at the bottom."""
    trials = [trial for trial in summary.trials if trial.number in x]
    heights = {trial.number: height for trial in trials if (height := height_of(trial)) is not None}
    settled = [trial.values[0] for trial in trials if trial.values]
    window = window_of(summary.search.metrics[0], settled, list(heights.values()))
    axes.set_ylim(window.low, window.high)
    axes.set_ylabel(SEARCH_METRICS[summary.search.metrics[0]].name_with_unit)
    if window.cut is not None:
        axes.axhline(window.cut, color=QUIET, linewidth=1.0, linestyle=(0, (1, 2)), zorder=1)
    places: dict[tuple[tuple[str, Any], ...], list[tuple[float, float]]] = {}  # by their marks: one call for each
    for trial in trials:
        mark = tuple(_mark_of(summary, trial, LEVEL_COLORS[2]).items())
        height = window.clip(heights.get(trial.number, window.edge))
        places.setdefault(mark, []).append((x[trial.number], height))
    for mark, points in places.items():
        axes.plot(*zip(*points, strict=True), linestyle="none", **dict(mark))
    return window


def height_of(trial: TrialSummary) -> float | None:
    """Return the first metric of a done trial, or the last reported value of another."""
    if trial.values:
        return trial.values[0]
    return trial.curve[-1][1] if trial.curve else None


def caption_of(trials: Sequence[TrialSummary], window: Window) -> str:
    """Return what a reader must know about the marks of `add_trials`."""
    parts = ["A mark is a trial."]
    if any(trial.state == "pruned" for trial in trials):
        parts.append("A pruned trial is at its last value; its size shows how many epochs it trained.")
    if window.cut is not None:
        parts.append("Trials beyond the dotted line are worse than the axis shows.")
    return " ".join(parts)


def legend_of(summary: SearchSummary, trials: Sequence[TrialSummary], color: str = LEVEL_COLORS[2]) -> list[Line2D]:
    """Return an entry for each kind of mark among `trials`. `color` fills the marks of done trials."""
    names = {"*": name_of_winner(summary), "s": "default configuration", "o": "done"}
    shapes = {_shape_of(summary, trial) for trial in trials if trial.state == "done"}
    entries = [_entry(name, _done(shape, color)) for shape, name in names.items() if shape in shapes]
    states = {trial.state for trial in trials}
    entries += [_entry("pruned", _PRUNED)] if "pruned" in states else []
    return entries + ([_entry("failed", _FAILED)] if "failed" in states else [])


def name_of_winner(summary: SearchSummary) -> str:
    """Return the winner's name in a legend."""
    name = "the best" if summary.confirmation is None else "winner"
    winner, default = summary.trial_of_winner, summary.default_trial
    return f"{name} (default configuration)" if winner is not None and winner is default else name


def swatch(label: str, color: str) -> Line2D:
    """Return a legend entry for a color."""
    return _entry(label, _done("o", color))


def _shape_of(summary: SearchSummary, trial: TrialSummary) -> str:
    """Return the marker of a done trial."""
    if trial is summary.trial_of_winner:
        return "*"
    return "s" if trial is summary.default_trial else "o"


def _entry(label: str, style: dict[str, Any]) -> Line2D:
    return Line2D([], [], linestyle="none", label=label, **style)


def _done(shape: str, color: str) -> dict[str, Any]:
    return {
        "marker": shape,
        "markersize": SIZES[shape],
        "markerfacecolor": color,
        "markeredgecolor": INK,
        "markeredgewidth": 0.8,
    }
