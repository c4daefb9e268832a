"""The figures of a search's page.

They show the searched fields (search_fields.py, search_contour.py), the learning curves or the Pareto front, the
history, the confirmation and the importances. A figure without data is None, and the page then states that there is
nothing to draw yet. A contour that cannot be drawn is left out, see `why_no_contour`.
"""

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from raykd.errors import plural
from raykd.report import search_wording
from raykd.report.figures.axes import (
    Drawing,
    add_dots,
    add_interval,
    add_legend,
    curves_axes,
    label_rows_axis,
    plain_axes,
    rows_axes,
)
from raykd.report.figures.search_contour import draw_contour
from raykd.report.figures.search_fields import draw_parallel, draw_slices
from raykd.report.figures.svg import BAD, GRID, INK, LEVEL_COLORS, PAPER, QUIET, Medium, figure_style
from raykd.report.figures.trial_marks import (
    DEFAULT,
    UNFINISHED,
    WINNER,
    add_trial,
    add_trials,
    caption_of,
    height_of,
    legend_of,
    line_style,
    name_of_winner,
    window_of,
)
from raykd.report.read.search_results import SearchSummary, TrialSummary
from raykd.report.search_wording import value_in_units
from raykd.report.stats.confirmation import gain_over_baseline, gain_over_default
from raykd.report.stats.importances import Importances, epochs_in_words
from raykd.report.stats.metrics import SEARCH_METRICS
from raykd.report.stats.paired_interval import PairedGain
from raykd.store.records import ConfirmationRecord

MIN_CURVES = 4  # with fewer curves, no value is an outlier
CURVES_FAR_OUT = 0.5  # quartile distances of the curves' last values
BEYOND = 4.0  # an interval is drawn as far as this many times the range of the gains


def draw_search(
    summary: SearchSummary, importances: Importances | None, medium: Medium = "page"
) -> dict[str, Drawing | None]:
    """Return the figures by their headings on the page. Their ids start with 'search'."""
    search = summary.search
    drawings: dict[str, Drawing | None] = {}
    with figure_style(medium):
        if len(search.space) > 1:
            drawings["Configurations tried"] = draw_parallel(summary, "search-parallel")
        drawings["Field by field"] = draw_slices(summary, "search-fields")
        if contour := draw_contour(summary, importances, "search-plane"):
            after = "" if importances is None or importances.after is None else f" {epochs_in_words(importances.after)}"
            drawings[f"Two most important fields{after}"] = contour
        if len(search.metrics) == 1:
            drawings["Learning curves"] = _draw_curves(summary, "search-curves")
        else:
            drawings["Trade-off"] = _draw_front(summary, "search-front")
        drawings["Trial by trial"] = _draw_history(summary, "search-history")
        if search.confirm or summary.confirmation is not None:
            drawings["Confirmation with other seeds"] = _draw_confirmation(summary.confirmation, "search-confirmation")
        if len(search.space) > 1:
            drawings["Importance of each field (fANOVA)"] = _draw_importances(
                summary, importances, "search-importances"
            )
    return drawings


def _draw_importances(summary: SearchSummary, importances: Importances | None, key: str) -> Drawing | None:
    """Draw a bar for each field."""
    if importances is None:
        return None
    labels = search_wording.labels(list(summary.search.space))
    figure, axes = rows_axes([labels[path] for path in importances.shares])
    shares = [100 * share for share in importances.shares.values()]
    axes.barh(range(len(shares)), shares, height=0.55, color=WINNER)
    for row, share in enumerate(shares):
        axes.annotate(f"{share:.0f} %", (share, row), (4, 0), textcoords="offset points", va="center")
    axes.set_xlim(0, 112)
    metric = SEARCH_METRICS[importances.metric].label
    label_rows_axis(axes, f"share of the variance of {metric}", "%")
    described = "; ".join(
        f"{labels[path]} {share:.0f} %" for path, share in zip(importances.shares, shares, strict=True)
    )
    num_trials = plural(importances.num_trials, "trial")
    when = epochs_in_words(importances.after)
    caption = f"Of {metric} {when}, over {num_trials}. With few trials it is a hint, not a measurement."
    return Drawing(figure, key, f"Importance of each field for {metric}", f"{described}.", caption)


def _draw_history(summary: SearchSummary, key: str) -> Drawing | None:
    """Draw the metric by trial number, and the best value of the done trials so far."""
    shown = [trial for trial in summary.trials if trial.is_ended]
    if not any(height_of(trial) is not None for trial in shown):
        return None
    metric = summary.search.metrics[0]
    sign = SEARCH_METRICS[metric].sign
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
    add_legend(figure, 3, entries)
    reached = "; ".join(f"trial {number} {value_in_units(metric, value)}" for number, value in best)
    return Drawing(
        figure, key, "Trials in their order", f"Best so far: {reached or 'none done'}.", caption_of(shown, window)
    )


def _draw_curves(summary: SearchSummary, key: str) -> Drawing | None:
    """Draw a line for each trial: the metric of its kept epoch so far, over epochs."""
    trials = [trial for trial in summary.trials if trial.curve]
    if not trials:
        return None
    chosen = summary.search.metrics[0]
    metric = chosen if chosen.startswith("val_") else "val_top1"
    label = SEARCH_METRICS[metric].label.capitalize()
    figure, axes = curves_axes(num_legend_rows=2)
    for rung in summary.search.rungs_of(summary.record.epochs) if summary.search.scheduler == "asha" else ():
        axes.axvline(rung, color=GRID, linewidth=1.0, dashes=(3, 2), zorder=0)
    for trial in trials:
        _add_curve(axes, summary, trial)
    ends, values = [trial.curve[-1][1] for trial in trials], [value for trial in trials for _, value in trial.curve]
    window = window_of(metric, ends if len(ends) >= MIN_CURVES else values, values, CURVES_FAR_OUT)
    axes.set_ylim(window.low, window.high)
    axes.set_ylabel(SEARCH_METRICS[metric].name_with_unit)
    _add_states_to_legend(axes, {trial.state for trial in trials})
    add_legend(figure, num_columns=3)
    described = "; ".join(
        f"trial {trial.number} {value_in_units(metric, trial.curve[-1][1])} after epoch {trial.curve[-1][0]}"
        for trial in trials[:50]
    )
    kept = _kept_epoch({trial.keeps_last for trial in trials})
    rungs = " Dashed lines: rungs, after which trials are compared." if summary.search.scheduler == "asha" else ""
    return Drawing(
        figure,
        key,
        f"{label} of {kept}",
        f"{described}.",
        f"{kept[0].upper()}{kept[1:]} of each trial; a mark is where it was stopped or failed.{rungs}",
    )


def _kept_epoch(keeps_last: set[bool]) -> str:
    """Return which epoch trials keep. keeps_last: of all trials, which differ if `student.keep` is searched."""
    if len(keeps_last) > 1:
        return "the kept epoch so far"
    return "the latest epoch" if True in keeps_last else "the best epoch so far"


def _add_states_to_legend(axes: Axes, states: set[str]) -> None:
    styles = {"done": (INK, ""), "running": (INK, ""), "pruned": (QUIET, "o"), "failed": (BAD, "x")}
    names = {"running": "unfinished"}
    for state, (color, marker) in styles.items():
        if state in states:
            style = {"color": color, "linewidth": 0.8, "dashes": UNFINISHED if state == "running" else (1, 0)}
            axes.plot([], [], marker=marker, markersize=5, mfc=PAPER, label=names.get(state, state), **style)


def _add_curve(axes: Axes, summary: SearchSummary, trial: TrialSummary) -> None:
    curve, inner = trial.curve, range(1, len(trial.curve) - 1)
    # Leave out points inside horizontal segments: most epochs do not improve on the best so far.
    corners = [i for i in inner if not curve[i - 1][1] == curve[i][1] == curve[i + 1][1]]
    epochs, values = zip(*(curve[i] for i in dict.fromkeys([0, *corners, len(curve) - 1])), strict=True)
    style = line_style(summary, trial)
    names = {WINNER: name_of_winner(summary), DEFAULT: "default configuration"}
    axes.plot(epochs, values, label=names.get(style["color"]), **style)
    if trial.state in ("pruned", "failed"):
        add_trial(axes, summary, trial, epochs[-1], values[-1], "")


def _draw_front(summary: SearchSummary, key: str) -> Drawing | None:
    """Draw the first two metrics of each done trial, and the Pareto front."""
    done = [trial for trial in summary.trials if len(trial.values) > 1]
    if not done:
        return None
    first, second = (SEARCH_METRICS[metric].name_with_unit for metric in summary.search.metrics[:2])
    front = sorted((summary.trial(number) for number in summary.best), key=lambda trial: trial.values[1])
    figure, axes = plain_axes()
    for trial in done:
        color = LEVEL_COLORS[2] if trial in front else LEVEL_COLORS[0]
        add_trial(axes, summary, trial, trial.values[1], trial.values[0], color)
    is_plane = len(summary.search.metrics) == 2  # the front of three metrics is not a line in two of them
    if is_plane:
        ends = [trial.values[1] for trial in front], [trial.values[0] for trial in front]
        axes.step(*ends, where="post", color=INK, linewidth=1.0, zorder=1)
    axes.set_xlabel(second)
    axes.set_ylabel(first)
    add_legend(figure, 3, legend_of(summary, done))
    named = "; ".join(search_wording.trial_and_values(summary, trial) for trial in front)
    return Drawing(
        figure,
        key,
        f"{first} against {second}",
        f"Pareto-optimal: {named}.",
        f"{'On the line' if is_plane else 'Dark'}: the Pareto-optimal trials.",
    )


def _draw_confirmation(confirmation: ConfirmationRecord | None, key: str) -> Drawing | None:
    """Draw the winner's gains: a dot per seed, the mean and its interval."""
    if confirmation is None:
        return None
    named = {"default": gain_over_default(confirmation), "baseline": gain_over_baseline(confirmation)}
    gains = {f"winner \N{MINUS SIGN} {name}": gain for name, gain in named.items() if gain}
    if not gains:
        return None
    figure, axes = rows_axes([label for name in gains for label in (name, "mean")])
    axes.axvline(0, color=INK, linewidth=1.0)
    ends = [end for gain in gains.values() for end in _reach(gain)]
    margin = 0.08 * (max(*ends, 0) - min(*ends, 0)) or 1.0
    axes.set_xlim(min(*ends, 0) - margin, max(*ends, 0) + margin)
    is_cut = [_add_gain(axes, gain, 2 * row) for row, gain in enumerate(gains.values())]
    metric = confirmation.metric
    unit = search_wording.gain_unit(metric).replace("points", "percentage points")
    label_rows_axis(axes, f"gain in {SEARCH_METRICS[metric].label}", unit)
    described = "; ".join(
        f"{name}: {', '.join(search_wording.difference(pair.gain, metric) for pair in gain.pairs)}, "
        f"mean {search_wording.gain_in_units(gain, metric)}, {gain.verdict}"
        for name, gain in gains.items()
    )
    parts = ["Right of 0 the winner is better. A dot is a seed; the bar is the interval of the mean."]
    parts += ["An arrow: the bar extends beyond the axis."] if any(is_cut) else []
    if search_wording.recipe_differences(confirmation):
        parts.append("The baseline has another student recipe than the winner.")
    parts += search_wording.selection(confirmation)
    return Drawing(figure, key, "The winner's gain by seed", f"{described}.", " ".join(parts))


def _reach(gain: PairedGain) -> list[float]:
    """Return values that the axis must show: the gains of all seeds, and the interval as far as BEYOND permits."""
    gains = [pair.gain for pair in gain.pairs]
    span = BEYOND * max(max(gains) - min(gains), abs(gain.spread.mean))
    low, high = gain.interval or (gain.spread.mean, gain.spread.mean)
    return [*gains, max(low, min(gains) - span), min(high, max(gains) + span)]


def _add_gain(axes: Axes, gain: PairedGain, row: int) -> bool:
    """Draw a gain in two rows. Return whether its interval extends beyond the axis."""
    add_dots(axes, [pair.gain for pair in gain.pairs], [row] * len(gain.pairs), WINNER, "D")
    axes.plot([gain.spread.mean], [row + 1], "D", color=INK, markersize=6)
    return gain.interval is not None and add_interval(axes, gain.interval, row + 1)
