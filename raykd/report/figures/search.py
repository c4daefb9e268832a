"""The figures of a search's page.

They show the configurations tried, the importances, the history, the learning curves or the Pareto front, and the
confirmation. A figure without data is None, and the page then says that there is nothing to draw yet.
"""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from raykd.errors import flattened, plural
from raykd.report import search_wording
from raykd.report.figures.axes import Drawing, add_dots, add_legend, curves_axes, plain_axes, rows_axes, use_log
from raykd.report.figures.svg import BAD, GRID, INK, PAPER, QUIET, STAGE_COLORS, STEP_COLORS, page_style
from raykd.report.figures.trial_marks import (
    add_trial,
    add_trials,
    caption_of,
    height_of,
    legend_of,
    name_of_winner,
    swatch,
    window_of,
)
from raykd.report.read.search_records import SearchSummary, TrialSummary
from raykd.report.search_wording import configuration_in_words, value_in_units, values_in_units
from raykd.report.stats.confirmation import winner_gains
from raykd.report.stats.importances import Importances
from raykd.report.stats.metrics import SEARCH_METRICS
from raykd.report.stats.paired_interval import PairedGain
from raykd.spec.search import Choice, Space
from raykd.store.records import ConfirmationRecord

NUM_NAMED = 5  # trials in the figure's description for screen readers
LOG_RATIO = 20  # a list of numbers that spans a greater ratio is drawn on a log scale
WINNER, DEFAULT = STAGE_COLORS["distilled"], STAGE_COLORS["baseline"]
UNFINISHED = (4, 1.5)  # dashes of a trial that has not ended
MIN_CURVES = 4  # with fewer curves, no value is an outlier
CURVES_FAR_OUT = 0.5  # quartile distances of the curves' last values
BEYOND = 4.0  # an interval is drawn as far as this many times the range of the gains


def draw_search(
    summary: SearchSummary, importances: Importances | None, key: str = "search"
) -> dict[str, Drawing | None]:
    """Return the figures by their headings on the page. Their ids start with `key`."""
    search = summary.search
    with page_style():
        drawings = {"Configurations tried": _draw_configurations(summary, f"{key}-plane")}
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


def _draw_configurations(summary: SearchSummary, key: str) -> Drawing | None:
    """Draw the trials that ended over the first two searched fields that are numbers.

    Done trials are colored by rank, in at most five groups of about the same size: steps of equal width would leave
    one color to all but a few bad trials. With one numeric field, the metric is the other axis.
    """
    shown = [
        trial
        for trial in summary.trials
        if trial.is_ended and trial.configuration.keys() >= summary.search.space.keys()
    ]
    if not any(height_of(trial) is not None for trial in shown):
        return None
    fields = [path for path, space in summary.search.space.items() if _is_numeric(space)]
    draw = _draw_two_fields if len(fields) >= 2 else _draw_one_field
    axes_fields = fields[:2] or list(summary.search.space)[:1]
    figure, caption = draw(summary, shown, axes_fields)
    over = " and ".join(_label(summary, path) for path in axes_fields)
    title = f"{SEARCH_METRICS[summary.search.metrics[0]].label.capitalize()} over {over}"
    best = [summary.trial(number) for number in summary.best[:NUM_NAMED]]
    named = "; ".join(
        f"{_trial_and_values(summary, trial)} at {configuration_in_words(trial.configuration)}" for trial in best
    )
    description = f"Best first: {named or 'none done'}. {search_wording.progress(summary)}."
    return Drawing(figure, key, title, description, caption)


def rank_groups(summary: SearchSummary) -> list[list[TrialSummary]]:
    """Split the done trials into at most five groups of about the same size, worst first; equal values share one."""
    sign = SEARCH_METRICS[summary.search.metrics[0]].sign
    done = sorted((trial for trial in summary.trials if trial.values), key=lambda trial: sign * trial.values[0])
    values = [trial.values[0] for trial in done]
    steps = [len(STEP_COLORS) * values.index(value) // len(done) for value in values]
    return [[trial for trial, group in zip(done, steps, strict=True) if group == step] for step in sorted(set(steps))]


def _draw_two_fields(
    summary: SearchSummary, shown: Sequence[TrialSummary], fields: Sequence[str]
) -> tuple[Figure, str]:
    """Draw two fields against each other."""
    groups = rank_groups(summary)
    last, steps = len(STEP_COLORS) - 1, max(1, len(groups) - 1)  # colors are evenly spread up to the best one
    colors = [STEP_COLORS[last - last * (len(groups) - 1 - group) // steps] for group in range(len(groups))]
    marks = legend_of(summary, shown, QUIET)
    num_rows = max(len(groups), len(marks))
    blank = [Line2D([], [], linestyle="none", label=" ")] * (num_rows - len(groups))  # so that marks start column two
    entries = [*_legend_of_groups(summary, groups, colors), *blank, *marks]
    figure, axes = plain_axes(num_rows)
    for axis, path in zip("xy", fields, strict=True):
        _scale(axes, axis, path, summary)
    fills = {trial.number: color for group, color in zip(groups, colors, strict=True) for trial in group}
    for trial in shown:
        x, y = (trial.configuration[path] for path in fields)
        add_trial(axes, summary, trial, x, y, fills.get(trial.number, ""))
    add_legend(figure, 2, entries)
    parts = ["Colors are groups of about the same size, from worst to best."] if len(groups) > 1 else []
    if any(trial.state == "pruned" for trial in shown):
        parts.append("A trial that was stopped early is hollow; its size shows how many epochs it trained.")
    if len(summary.search.space) > 2:
        parts.append("Trials differ in further fields, which this figure does not show.")
    return figure, " ".join(parts)


def _draw_one_field(summary: SearchSummary, shown: Sequence[TrialSummary], fields: Sequence[str]) -> tuple[Figure, str]:
    """Draw the metric over one field, whose values are evenly spaced if they are not numbers."""
    (path,) = fields
    space = summary.search.space[path]
    entries = legend_of(summary, shown)
    figure, axes = plain_axes(num_legend_rows=-(-len(entries) // 3))
    if _is_numeric(space):
        _scale(axes, "x", path, summary)
        places = {trial.number: trial.configuration[path] for trial in shown}
    else:
        values = list(space.points or ())
        axes.set_xticks(range(len(values)), [flattened(str(value), 16) for value in values])
        axes.set_xlim(-0.5, len(values) - 0.5)
        axes.set_xlabel(_label(summary, path))
        places = {trial.number: values.index(trial.configuration[path]) for trial in shown}
    window = add_trials(axes, summary, places)
    add_legend(figure, 3, entries)
    return figure, caption_of(shown, window)


def _scale(axes: Axes, axis: str, path: str, summary: SearchSummary) -> None:
    """Show the whole search space of the field `path` on the axis 'x' or 'y'."""
    space = summary.search.space[path]
    numbers = [float(value) for value in space.probe_values]
    low, high = min(numbers), max(numbers)
    # A list of numbers has a log scale if it spans LOG_RATIO, a range if it is sampled on one.
    is_wide = isinstance(space, Choice) and low > 0 and high > LOG_RATIO * low
    if is_wide or getattr(space, "log", False):
        use_log(axes, axis)
        margin = (high / low) ** 0.04
        ends = low / margin, high * margin
    else:
        margin = 0.04 * (high - low) or 0.5
        ends = low - margin, high + margin
    if axis == "x":
        axes.set_xlim(*ends)
        axes.set_xlabel(_label(summary, path))
    else:
        axes.set_ylim(*ends)
        axes.set_ylabel(_label(summary, path))


def _label(summary: SearchSummary, path: str) -> str:
    return search_wording.labels(list(summary.search.space))[path]


def _is_numeric(space: Space) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in space.probe_values)


def _legend_of_groups(
    summary: SearchSummary, groups: Sequence[Sequence[TrialSummary]], colors: Sequence[str]
) -> list[Line2D]:
    """Return an entry with the range of values of each group, best first."""
    entries = []
    for group, color in zip(reversed(groups), reversed(colors), strict=True):
        ends = sorted({trial.values[0] for trial in (group[0], group[-1])})
        texts = dict.fromkeys(value_in_units(summary.search.metrics[0], end) for end in ends)
        entries.append(swatch(" to ".join(texts), color))
    return entries


def _trial_and_values(summary: SearchSummary, trial: TrialSummary) -> str:
    return f"trial {trial.number} {', '.join(values_in_units(summary.search, trial.values))}"


def _draw_importances(summary: SearchSummary, importances: Importances | None, key: str) -> Drawing | None:
    """Draw a bar for each field."""
    if importances is None:
        return None
    figure, axes = rows_axes([_label(summary, path) for path in importances.shares])
    shares = [100 * share for share in importances.shares.values()]
    axes.barh(range(len(shares)), shares, height=0.55, color=WINNER)
    for row, share in enumerate(shares):
        axes.annotate(f"{share:.0f} %", (share, row), (4, 0), textcoords="offset points", va="center")
    axes.set_xlim(0, 112)
    metric = SEARCH_METRICS[importances.metric].label
    axes.set_xlabel(f"share of the variance of {metric} (%)")
    when = "at the last epoch" if importances.after is None else f"after {plural(importances.after, 'epoch')}"
    described = "; ".join(
        f"{_label(summary, path)} {share:.0f} %" for path, share in zip(importances.shares, shares, strict=True)
    )
    num_trials = plural(importances.num_trials, "trial")
    caption = f"fANOVA of {metric} {when}, of {num_trials}. With few trials it is a hint, not a measurement."
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
    """Draw a line for each trial: the metric of its best epoch so far, over epochs."""
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
    rungs = " Dashed lines: rungs, after which trials are compared." if summary.search.scheduler == "asha" else ""
    return Drawing(
        figure,
        key,
        f"{label} of the best epoch so far",
        f"{described}.",
        f"The best epoch so far of each trial; a mark is where it was stopped or failed.{rungs}",
    )


def _add_states_to_legend(axes: Axes, states: set[str]) -> None:
    styles = {"done": (INK, ""), "running": (INK, ""), "pruned": (QUIET, "o"), "failed": (BAD, "x")}
    names = {"pruned": "stopped early", "running": "unfinished"}
    for state, (color, marker) in styles.items():
        if state in states:
            style = {"color": color, "linewidth": 0.8, "dashes": UNFINISHED if state == "running" else (1, 0)}
            axes.plot([], [], marker=marker, markersize=5, mfc=PAPER, label=names.get(state, state), **style)


def _add_curve(axes: Axes, summary: SearchSummary, trial: TrialSummary) -> None:
    curve, inner = trial.curve, range(1, len(trial.curve) - 1)
    # Leave out points inside horizontal segments: most epochs do not improve on the best so far.
    corners = [i for i in inner if not curve[i - 1][1] == curve[i][1] == curve[i + 1][1]]
    epochs, values = zip(*(curve[i] for i in dict.fromkeys([0, *corners, len(curve) - 1])), strict=True)
    if trial is summary.trial_of_winner:
        axes.plot(epochs, values, color=WINNER, linewidth=2.2, zorder=4, label=name_of_winner(summary))
    elif trial is summary.default_trial:
        axes.plot(epochs, values, color=DEFAULT, linewidth=1.6, zorder=3, label="default configuration")
    elif trial.state in ("pruned", "failed"):
        axes.plot(epochs, values, color=QUIET if trial.state == "pruned" else BAD, linewidth=0.8, zorder=2)
    else:
        dashes = UNFINISHED if trial.state == "running" else (1, 0)
        axes.plot(epochs, values, color=INK, linewidth=0.8, alpha=0.6, zorder=2, dashes=dashes)
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
        color = STEP_COLORS[2] if trial in front else STEP_COLORS[0]
        add_trial(axes, summary, trial, trial.values[1], trial.values[0], color)
    is_plane = len(summary.search.metrics) == 2  # the front of three metrics is not a line in two of them
    if is_plane:
        ends = [trial.values[1] for trial in front], [trial.values[0] for trial in front]
        axes.step(*ends, where="post", color=INK, linewidth=1.0, zorder=1)
    axes.set_xlabel(second)
    axes.set_ylabel(first)
    add_legend(figure, 3, legend_of(summary, done))
    named = "; ".join(_trial_and_values(summary, trial) for trial in front)
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
    of_winner = winner_gains(confirmation)
    named = {"default": of_winner.over_default, "baseline": of_winner.over_baseline}
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
    axes.set_xlabel(f"gain in {SEARCH_METRICS[metric].label} ({unit})")
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
    left, right = axes.get_xlim()
    add_dots(axes, [pair.gain for pair in gain.pairs], [row] * len(gain.pairs), WINNER, "D")
    axes.plot([gain.spread.mean], [row + 1], "D", color=INK, markersize=6)
    if gain.interval is None:
        return False
    low, high = gain.interval
    ends = max(low, left), min(high, right)
    axes.plot(ends, [row + 1] * 2, color=INK, linewidth=1.4)
    for end, is_cut, arrow in ((ends[0], low < left, "<"), (ends[1], high > right, ">")):
        axes.plot([end], [row + 1], arrow if is_cut else "|", color=INK, markersize=7 if is_cut else 9, clip_on=False)
    return low < left or high > right
