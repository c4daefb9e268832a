"""How a trial looks in every figure of a search: its shape says what became of it, and what it is.

filled circle  done          hollow circle  stopped early, the larger the further it came
star           the winner    square         the experiment's own setting     cross  failed
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from raykd.report.figures.svg import BAD, INK, PAPER, QUIET, STEP_COLOURS
from raykd.report.read.search_records import SearchSummary, TrialSummary
from raykd.report.render.search_wording import METRIC_NAMES, METRIC_UNITS
from raykd.spec.search import METRICS

SIZES = {"o": 6.5, "s": 7.5, "*": 12.0}
EDGE = 0.8
SMALLEST, LARGEST = 3.0, 8.0  # of a trial that was stopped: after no epoch, and before its last
FAR_OUT = 3.0  # quartile distances: trials that are worse by more are drawn at the edge


@dataclass(frozen=True)
class Window:
    """The part of an axis that a figure shows, from low to high; what is worse than `cut` is drawn at `edge`."""

    low: float
    high: float
    cut: float | None = None
    edge: float = 0.0
    is_more_better: bool = True

    def clip(self, value: float) -> float:
        """`value` where it is seen, else the edge."""
        if self.cut is None or (value >= self.cut if self.is_more_better else value <= self.cut):
            return value
        return self.edge


def shape_of(summary: SearchSummary, trial: TrialSummary) -> str:
    """Of a trial that is done."""
    winner, own = summary.trial_of_winner, summary.default_trial
    if winner is not None and trial.number == winner.number:
        return "*"
    return "s" if own is not None and trial.number == own.number else "o"


def add_trial(axes: Axes, summary: SearchSummary, trial: TrialSummary, x: float, y: float, colour: str) -> None:
    """A trial that ended; `colour` fills those that are done, and an edge keeps that legible on any paper."""
    look: dict[str, Any]
    if trial.state == "done":
        look, order = _done(shape_of(summary, trial), colour), 4 if shape_of(summary, trial) != "o" else 3
    elif trial.state == "stopped":
        share = trial.epochs_trained / max(1, trial.epochs)
        look, order = _STOPPED | {"markersize": SMALLEST + (LARGEST - SMALLEST) * share}, 2
    else:
        look, order = _FAILED, 2
    axes.plot([x], [y], linestyle="none", zorder=order, **look)


def height_of(trial: TrialSummary) -> float | None:
    """The first metric: of a trial that is done, at its end; of another, when it was last heard of."""
    if trial.values:
        return trial.values[0]
    return trial.curve[-1][1] if trial.curve else None


def add_trials(axes: Axes, summary: SearchSummary, x: Mapping[int, float]) -> Window:
    """The first metric of the trials in `x` {number: place}; one that failed without any stands at the bottom."""
    trials = [trial for trial in summary.trials if trial.number in x]
    heights = {trial.number: height for trial in trials if (height := height_of(trial)) is not None}
    settled = [trial.values[0] for trial in trials if trial.values]
    window = window_of(summary.search.metrics[0], settled, list(heights.values()))
    axes.set_ylim(window.low, window.high)
    axes.set_ylabel(axis_label(summary.search.metrics[0]))
    if window.cut is not None:
        axes.axhline(window.cut, color=QUIET, linewidth=1.0, linestyle=(0, (1, 2)), zorder=1)
    for trial in trials:
        height = window.clip(heights.get(trial.number, window.edge))
        add_trial(axes, summary, trial, x[trial.number], height, STEP_COLOURS[2])
    return window


def legend_of(summary: SearchSummary, trials: Sequence[TrialSummary], colour: str = STEP_COLOURS[2]) -> list[Line2D]:
    """An entry for each look that `trials` have; `colour` fills those of trials that are done."""
    names = {"*": name_of_winner(summary), "s": "own setting", "o": "done"}
    shapes = {shape_of(summary, trial) for trial in trials if trial.state == "done"}
    entries = [_entry(name, _done(shape, colour)) for shape, name in names.items() if shape in shapes]
    others = {"stopped": ("stopped early", _STOPPED), "failed": ("failed", _FAILED)}
    states = {trial.state for trial in trials}
    return entries + [_entry(*look) for state, look in others.items() if state in states]


def name_of_winner(summary: SearchSummary) -> str:
    """In a legend."""
    name = "the best" if summary.confirmation is None else "winner"
    winner, own = summary.trial_of_winner, summary.default_trial
    return f"{name} (own setting)" if winner is not None and winner is own else name


def swatch(label: str, colour: str) -> Line2D:
    """A legend's entry for one colour."""
    return _entry(label, _done("o", colour))


def window_of(metric: str, settled: Sequence[float], shown: Sequence[float], far_out: float = FAR_OUT) -> Window:
    """From the best of `shown` down to its worst, or to `far_out` quartile distances below most of `settled`.

    One trial at chance, or stopped after its first epochs, would press all others into a line.
    """
    sign = 1 if METRICS[metric] == "max" else -1
    ranked, everything = sorted(sign * value for value in settled or shown), [sign * value for value in shown]
    quartile, upper = ranked[len(ranked) // 4], ranked[(3 * len(ranked)) // 4]
    best, worst = max(everything), min(everything)
    low = max(worst, quartile - far_out * max(upper - quartile, 0.02 * abs(quartile)))
    margin = 0.06 * (best - low) or 0.02 * abs(best) or 1.0
    is_cut = low > worst
    bottom = low - (2 if is_cut else 1) * margin
    ends = sorted((sign * bottom, sign * (best + margin)))
    edge = sign * (low - margin) if is_cut else sign * low
    return Window(ends[0], ends[1], sign * low if is_cut else None, edge, sign > 0)


def caption_of(trials: Sequence[TrialSummary], window: Window) -> str:
    """What the marks of `add_trials` need said."""
    parts = ["A mark is a trial."]
    if any(trial.state == "stopped" for trial in trials):
        parts.append("One that was stopped stands where it was then, the larger the further it came.")
    if window.cut is not None:
        parts.append("Beyond the dotted line lies all that is worse.")
    return " ".join(parts)


def axis_label(metric: str) -> str:
    """'validation top1 (%)'."""
    unit = METRIC_UNITS[metric]
    return METRIC_NAMES[metric] + (f" ({unit})" if unit else "")


def _entry(label: str, look: dict[str, Any]) -> Line2D:
    return Line2D([], [], linestyle="none", label=label, **look)


def _done(shape: str, colour: str) -> dict[str, Any]:
    return {
        "marker": shape,
        "markersize": SIZES[shape],
        "markerfacecolor": colour,
        "markeredgecolor": INK,
        "markeredgewidth": EDGE,
    }


_STOPPED: dict[str, Any] = {
    "marker": "o",
    "markersize": 5.0,
    "markerfacecolor": PAPER,
    "markeredgecolor": QUIET,
    "markeredgewidth": 1.0,
}
_FAILED: dict[str, Any] = {"marker": "x", "markersize": 5.5, "markeredgecolor": BAD, "markeredgewidth": 1.4}
