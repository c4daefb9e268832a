"""The figures of a search's page: its map, importances, history, learning curves or Pareto front, confirmation.

A figure without data is None; the page then says so.
"""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from raykd.messages import plural
from raykd.report import search_wording
from raykd.report.figures import Drawing, add_dots, add_legend, curves_axes, plain_axes, rows_axes
from raykd.report.importances import Importances
from raykd.report.search_marks import (
    add_trial,
    add_trials,
    axis_label,
    caption_of,
    height_of,
    legend_of,
    name_of_winner,
    window_of,
)
from raykd.report.search_plane import draw_plane
from raykd.report.search_records import Confirmation, SearchSummary, TrialSummary
from raykd.report.statistics import PairedGain
from raykd.report.svg import BAD, GRID, INK, PAPER, QUIET, STAGE_COLOURS, STEP_COLOURS, inline_svg, page_style
from raykd.search import METRICS
from raykd.search_words import in_units

WINNER, OWN = STAGE_COLOURS["distilled"], STAGE_COLOURS["baseline"]
UNFINISHED = (4, 1.5)  # dashes of a trial that has not ended
ENOUGH = 4  # curves, to leave out what is far below where they end
CURVES_FAR_OUT = 0.5  # quartile distances of their ends
BEYOND = 4.0  # spans of the seeds' differences that an interval may reach over before it is cut


def draw_search(
    summary: SearchSummary, importances: Importances | None, key: str = "search"
) -> dict[str, Drawing | None]:
    """The figures by the heading they stand under; `key` starts their ids. None: nothing to show yet."""
    search = summary.search
    with page_style():
        drawings = {"Settings tried": draw_plane(summary, f"{key}-plane")}
        if len(search.metrics) == 1:
            drawings["Learning curves"] = _draw_curves(summary, f"{key}-curves")
        else:
            drawings["Trade-off"] = _draw_front(summary, f"{key}-front")
        drawings["Trial by trial"] = _draw_history(summary, f"{key}-history")
        if search.confirm or summary.confirmation is not None:
            drawings["Confirmation with other seeds"] = _draw_confirmation(summary.confirmation, f"{key}-confirmation")
        if len(search.space) > 1:
            drawings["What matters"] = _draw_importances(summary, importances, f"{key}-importances")
    return drawings


def _draw_importances(summary: SearchSummary, importances: Importances | None, key: str) -> Drawing | None:
    """A bar a field."""
    if importances is None:
        return None
    names = search_wording.labels(list(summary.search.space))
    figure, axes = rows_axes([names[path] for path in importances.shares])
    shares = [100 * share for share in importances.shares.values()]
    axes.barh(range(len(shares)), shares, height=0.55, color=WINNER)
    for row, share in enumerate(shares):
        axes.annotate(f"{share:.0f} %", (share, row), (4, 0), textcoords="offset points", va="center")
    axes.set_xlim(0, 112)
    metric = search_wording.METRIC_NAMES[importances.metric]
    axes.set_xlabel(f"share of what moves {metric} (%)")
    when = "at its end" if importances.after is None else f"after {plural(importances.after, 'epoch')}"
    described = "; ".join(
        f"{names[path]} {share:.0f} %" for path, share in zip(importances.shares, shares, strict=True)
    )
    num_trials = plural(importances.num_trials, "trial")
    caption = f"fANOVA of {metric} {when}, of {num_trials}. Of few trials it is a hint, no measurement."
    return Drawing(inline_svg(figure, key, f"Importance of each field for {metric}", f"{described}."), caption)


def _draw_history(summary: SearchSummary, key: str) -> Drawing | None:
    """The metric by trial number, and the best of the trials so far that are done."""
    shown = [trial for trial in summary.trials if trial.is_ended]
    if not any(height_of(trial) is not None for trial in shown):
        return None
    metric = summary.search.metrics[0]
    sign = 1 if METRICS[metric] == "max" else -1
    entries = legend_of(summary, shown)
    figure, axes = plain_axes(num_legend_rows=-(-(len(entries) + 1) // 3))
    window = add_trials(axes, summary, {trial.number: trial.number for trial in shown})
    best: list[tuple[int, float]] = []
    for trial in shown:
        if trial.values and (not best or sign * trial.values[0] > sign * best[-1][1]):
            best.append((trial.number, trial.values[0]))
    if best:
        numbers, values = zip(*best, (shown[-1].number, best[-1][1]), strict=True)
        entries += axes.step(numbers, values, where="post", color=INK, linewidth=1.0, zorder=1, label="best so far")
    axes.set_xlabel("trial")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
    axes.margins(x=0.04)
    figure.legend(handles=entries, loc="outside upper left", ncols=3, borderpad=0, columnspacing=1.2)
    reached = "; ".join(f"trial {number} {search_wording.value(metric, value)}" for number, value in best)
    svg = inline_svg(figure, key, "Trials in their order", f"Best so far: {reached or 'none done'}.")
    return Drawing(svg, caption_of(shown, window))


def _draw_curves(summary: SearchSummary, key: str) -> Drawing | None:
    """The best epoch's metric so far over epochs, a line a trial."""
    trials = [trial for trial in summary.trials if trial.curve]
    if not trials:
        return None
    chosen = summary.search.metrics[0]
    metric = chosen if chosen.startswith("val_") else "val_top1"
    figure, axes = curves_axes(num_legend_rows=2)
    for rung in summary.search.rungs_of(summary.epochs) if summary.search.scheduler == "asha" else ():
        axes.axvline(rung, color=GRID, linewidth=1.0, dashes=(3, 2), zorder=0)
    for trial in trials:
        _add_curve(axes, summary, trial)
    ends, everything = [trial.curve[-1][1] for trial in trials], [value for t in trials for _, value in t.curve]
    window = window_of(metric, ends if len(ends) >= ENOUGH else everything, everything, CURVES_FAR_OUT)
    axes.set_ylim(window.low, window.high)
    axes.set_ylabel(axis_label(metric))
    looks = {"done": (INK, ""), "begun": (INK, ""), "stopped": (QUIET, "o"), "failed": (BAD, "x")}
    names = {"stopped": "stopped early", "begun": "unfinished"}
    for state, (colour, marker) in looks.items():
        if any(trial.state == state for trial in trials):
            look = {"color": colour, "linewidth": 0.8, "dashes": UNFINISHED if state == "begun" else (1, 0)}
            axes.plot([], [], marker=marker, markersize=5, mfc=PAPER, label=names.get(state, state), **look)
    add_legend(figure, num_columns=3)
    described = "; ".join(
        f"trial {trial.number} {search_wording.value(metric, trial.curve[-1][1])} after epoch {trial.curve[-1][0]}"
        for trial in trials[:50]
    )
    svg = inline_svg(
        figure, key, f"{search_wording.METRIC_NAMES[metric].capitalize()} of the best epoch so far", f"{described}."
    )
    rungs = " Dashed lines: rungs, after which trials are compared." if summary.search.scheduler == "asha" else ""
    return Drawing(svg, f"Of each trial's best epoch so far; a mark is where it was stopped or failed.{rungs}")


def _add_curve(axes: Axes, summary: SearchSummary, trial: TrialSummary) -> None:
    epochs, values = zip(*_corners(trial.curve), strict=True)
    winner, own = summary.trial_of_winner, summary.trial_of_own
    if winner is not None and trial.number == winner.number:
        axes.plot(epochs, values, color=WINNER, linewidth=2.2, zorder=4, label=name_of_winner(summary))
    elif own is not None and trial.number == own.number:
        axes.plot(epochs, values, color=OWN, linewidth=1.6, zorder=3, label="own setting")
    elif trial.state in ("stopped", "failed"):
        axes.plot(epochs, values, color=QUIET if trial.state == "stopped" else BAD, linewidth=0.8, zorder=2)
    else:
        dashes = UNFINISHED if trial.state == "begun" else (1, 0)
        axes.plot(epochs, values, color=INK, linewidth=0.8, alpha=0.6, zorder=2, dashes=dashes)
    if trial.state in ("stopped", "failed"):
        add_trial(axes, summary, trial, epochs[-1], values[-1], "")


def _corners(curve: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """The points at which the line bends or ends: of most epochs the best so far is that of the one before."""
    inner = range(1, len(curve) - 1)
    kept = [i for i in inner if not curve[i - 1][1] == curve[i][1] == curve[i + 1][1]]
    return [curve[i] for i in dict.fromkeys([0, *kept, len(curve) - 1])]


def _draw_front(summary: SearchSummary, key: str) -> Drawing | None:
    """The first two metrics of each trial that is done, and those that none beats in all."""
    done = [trial for trial in summary.trials if len(trial.values) > 1]
    if not done:
        return None
    first, second = summary.search.metrics[:2]
    front = sorted((summary.trial(number) for number in summary.best), key=lambda trial: trial.values[1])
    figure, axes = plain_axes()
    for trial in done:
        colour = STEP_COLOURS[2] if trial in front else STEP_COLOURS[0]
        add_trial(axes, summary, trial, trial.values[1], trial.values[0], colour)
    is_plane = len(summary.search.metrics) == 2  # of three, what none beats in all is no line in two of them
    if is_plane:
        ends = [trial.values[1] for trial in front], [trial.values[0] for trial in front]
        axes.step(*ends, where="post", color=INK, linewidth=1.0, zorder=1)
    axes.set_xlabel(axis_label(second))
    axes.set_ylabel(axis_label(first))
    figure.legend(handles=legend_of(summary, done), loc="outside upper left", ncols=3, borderpad=0)
    named = "; ".join(f"trial {trial.number} {', '.join(in_units(summary.search, trial.values))}" for trial in front)
    title = f"{axis_label(first)} against {axis_label(second)}"
    svg = inline_svg(figure, key, title, f"Beaten by none in all: {named}.")
    where = "On the line" if is_plane else "Dark"
    return Drawing(svg, f"{where}: trials that no other beats in all metrics.")


def _draw_confirmation(confirmation: Confirmation | None, key: str) -> Drawing | None:
    """The winner's gains: a dot a seed, the mean and its interval."""
    if confirmation is None:
        return None
    named = {"its own": confirmation.over_own, "baseline": confirmation.over_baseline}
    gains = {f"winner - {what}".replace("-", "\N{MINUS SIGN}"): gain for what, gain in named.items() if gain}
    if not gains:
        return None
    figure, axes = rows_axes([label for name in gains for label in (name, "mean")])
    axes.axvline(0, color=INK, linewidth=1.0)
    ends = [end for gain in gains.values() for end in _reach(gain)]
    margin = 0.08 * (max(*ends, 0) - min(*ends, 0)) or 1.0
    axes.set_xlim(min(*ends, 0) - margin, max(*ends, 0) + margin)
    is_cut = [_add_gain(axes, gain, 2 * row) for row, gain in enumerate(gains.values())]
    unit = (
        "percentage points" if confirmation.metric == "val_top1" else search_wording.METRIC_UNITS[confirmation.metric]
    )
    axes.set_xlabel(f"gain in {search_wording.METRIC_NAMES[confirmation.metric]} ({unit})")
    described = "; ".join(
        f"{name}: {', '.join(search_wording.difference(pair.gain, confirmation.metric) for pair in gain.pairs)}, "
        f"mean {search_wording.gain_in_words(gain, confirmation.metric)}, {gain.verdict}"
        for name, gain in gains.items()
    )
    parts = ["Right of 0 the winner is better. A dot is a seed; the bar is the interval of the mean."]
    parts += ["An arrow: the bar goes on."] if any(is_cut) else []
    if confirmation.baseline.differences(confirmation.winner.setting):
        parts.append("The baseline has another student recipe than the winner.")
    parts += search_wording.picked(confirmation)
    svg = inline_svg(figure, key, "The winner's gain by seed", f"{described}.")
    return Drawing(svg, " ".join(parts))


def _reach(gain: PairedGain) -> list[float]:
    """What the axis has to show of a gain: its seeds, and its interval as far as they stay legible beside it."""
    gains = [pair.gain for pair in gain.pairs]
    span = BEYOND * max(max(gains) - min(gains), abs(gain.spread.mean))
    low, high = gain.interval or (gain.spread.mean, gain.spread.mean)
    return [*gains, max(low, min(gains) - span), min(high, max(gains) + span)]


def _add_gain(axes: Axes, gain: PairedGain, row: int) -> bool:
    """Two rows; whether the interval is cut at an end of the axis."""
    left, right = axes.get_xlim()
    add_dots(axes, [pair.gain for pair in gain.pairs], [row] * len(gain.pairs), WINNER, "D")
    axes.plot([gain.spread.mean], [row + 1], "D", color=INK, markersize=6)
    if gain.interval is None:
        return False
    low, high = gain.interval
    ends = max(low, left), min(high, right)
    axes.plot(ends, [row + 1] * 2, color=INK, linewidth=1.4)
    for end, is_off, arrow in ((ends[0], low < left, "<"), (ends[1], high > right, ">")):
        axes.plot([end], [row + 1], arrow if is_off else "|", color=INK, markersize=7 if is_off else 9, clip_on=False)
    return low < left or high > right
