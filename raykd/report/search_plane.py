"""The map of a search: what came of each setting over the first two searched fields that are numbers.

Trials that are done are coloured by rank, in at most five groups of about the same size from worst to best: steps of
equal width would leave one colour to all but the few that went wrong. Of one field the metric is the other axis.
"""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from raykd.messages import flattened
from raykd.report import search_wording
from raykd.report.figures import Drawing, plain_axes, use_log
from raykd.report.search_marks import add_trial, add_trials, caption_of, height_of, legend_of, swatch
from raykd.report.search_records import SearchSummary, TrialSummary
from raykd.report.svg import QUIET, STEP_COLOURS, inline_svg
from raykd.search import METRICS, Choice, Space
from raykd.search_words import in_units, words

NUM_NAMED = 5  # trials in the words for who cannot see the figure
LOG_RATIO = 20  # a list of numbers that spans more is drawn on a log scale


def draw_plane(summary: SearchSummary, key: str) -> Drawing | None:
    """None while no trial has ended with a value."""
    shown = [
        trial for trial in summary.trials if trial.is_ended and trial.setting.keys() >= summary.search.space.keys()
    ]
    if not any(height_of(trial) is not None for trial in shown):
        return None
    fields = [path for path, space in summary.search.space.items() if _is_numeric(space)]
    draw = _draw_two if len(fields) >= 2 else _draw_one
    with_any = fields[:2] or list(summary.search.space)[:1]
    figure, caption = draw(summary, shown, with_any)
    names = search_wording.labels(list(summary.search.space))
    over = " and ".join(names[path] for path in with_any)
    title = f"{search_wording.METRIC_NAMES[summary.search.metrics[0]].capitalize()} over {over}"
    return Drawing(inline_svg(figure, key, title, _description(summary)), caption)


def groups_of(summary: SearchSummary) -> list[list[TrialSummary]]:
    """The done trials in at most five groups of about the same size, worst first; equal values are in one group."""
    sign = 1 if METRICS[summary.search.metrics[0]] == "max" else -1
    done = sorted((trial for trial in summary.trials if trial.values), key=lambda trial: sign * trial.values[0])
    values = [trial.values[0] for trial in done]
    steps = [len(STEP_COLOURS) * values.index(value) // len(done) for value in values]
    return [[trial for trial, of in zip(done, steps, strict=True) if of == step] for step in sorted(set(steps))]


def _draw_two(summary: SearchSummary, shown: Sequence[TrialSummary], fields: Sequence[str]) -> tuple[Figure, str]:
    """Two fields are the axes."""
    groups = groups_of(summary)
    colours = _colours(len(groups))
    looks = legend_of(summary, shown, QUIET)
    num_rows = max(len(groups), len(looks))
    blank = [Line2D([], [], linestyle="none", label=" ")] * (num_rows - len(groups))  # each column by itself
    entries = [*_legend_of_groups(summary, groups, colours), *blank, *looks]
    figure, axes = plain_axes(num_rows)
    for axis, path in zip("xy", fields, strict=True):
        _scale(axes, axis, path, summary)
    fills = {trial.number: colour for group, colour in zip(groups, colours, strict=True) for trial in group}
    for trial in shown:
        x, y = (trial.setting[path] for path in fields)
        add_trial(axes, summary, trial, x, y, fills.get(trial.number, ""))
    figure.legend(handles=entries, loc="outside upper left", ncols=2, borderpad=0, columnspacing=1.2)
    parts = ["Colours are groups of about the same size, from worst to best."] if len(groups) > 1 else []
    if any(trial.state == "stopped" for trial in shown):
        parts.append("A trial that was stopped is hollow, the larger the further it came.")
    if len(summary.search.space) > 2:
        parts.append("Trials differ in further fields, which this figure does not show.")
    return figure, " ".join(parts)


def _draw_one(summary: SearchSummary, shown: Sequence[TrialSummary], fields: Sequence[str]) -> tuple[Figure, str]:
    """The metric over one field, its values side by side where they are no numbers."""
    (path,) = fields
    space = summary.search.space[path]
    entries = legend_of(summary, shown)
    figure, axes = plain_axes(num_legend_rows=-(-len(entries) // 3))
    if _is_numeric(space):
        _scale(axes, "x", path, summary)
        places = {trial.number: trial.setting[path] for trial in shown}
    else:
        values = list(space.points or ())
        axes.set_xticks(range(len(values)), [flattened(str(value), 16) for value in values])
        axes.set_xlim(-0.5, len(values) - 0.5)
        axes.set_xlabel(search_wording.labels(list(summary.search.space))[path])
        places = {trial.number: values.index(trial.setting[path]) for trial in shown}
    window = add_trials(axes, summary, places)
    figure.legend(handles=entries, loc="outside upper left", ncols=3, borderpad=0, columnspacing=1.2)
    return figure, caption_of(shown, window)


def _scale(axes: Axes, axis: str, path: str, summary: SearchSummary) -> None:
    """The field's whole space along `axis`, on a log scale where it is drawn on one."""
    space = summary.search.space[path]
    numbers = [float(value) for value in space.corners]
    low, high = min(numbers), max(numbers)
    if _is_log(space):
        use_log(axes, axis)
        margin = (high / low) ** 0.04
        ends = low / margin, high * margin
    else:
        margin = 0.04 * (high - low) or 0.5
        ends = low - margin, high + margin
    label = search_wording.labels(list(summary.search.space))[path]
    if axis == "x":
        axes.set_xlim(*ends)
        axes.set_xlabel(label)
    else:
        axes.set_ylim(*ends)
        axes.set_ylabel(label)


def _is_numeric(space: Space) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in space.corners)


def _is_log(space: Space) -> bool:
    """Whether it is drawn on a log scale, or is a list that spans as much."""
    if isinstance(space, Choice):
        numbers = [float(value) for value in space.corners]
        return min(numbers) > 0 and max(numbers) > LOG_RATIO * min(numbers)
    return bool(getattr(space, "log", False))


def _colours(num_groups: int) -> list[str]:
    """So many of the steps, from one end to the other; of one group the best."""
    last = len(STEP_COLOURS) - 1
    return [
        STEP_COLOURS[last - last * (num_groups - 1 - group) // max(1, num_groups - 1)] for group in range(num_groups)
    ]


def _legend_of_groups(
    summary: SearchSummary, groups: Sequence[Sequence[TrialSummary]], colours: Sequence[str]
) -> list[Line2D]:
    """The values in each group, best first."""
    entries = []
    for group, colour in zip(reversed(groups), reversed(colours), strict=True):
        ends = sorted({trial.values[0] for trial in (group[0], group[-1])})
        texts = dict.fromkeys(search_wording.value(summary.search.metrics[0], end) for end in ends)
        entries.append(swatch(" to ".join(texts), colour))
    return entries


def _description(summary: SearchSummary) -> str:
    best = [summary.trial(number) for number in summary.best[:NUM_NAMED]]
    named = "; ".join(
        f"trial {trial.number} {', '.join(in_units(summary.search, trial.values))} at {words(trial.setting)}"
        for trial in best
    )
    return f"Best first: {named or 'none done'}. {search_wording.progress(summary)}."
