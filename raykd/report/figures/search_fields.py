"""The figures that show every searched field: parallel coordinates, and the metric over each field.

In the parallel coordinates the axes are rows, so that long names fit and many fields remain legible on a phone.
"""

from collections.abc import Sequence
from typing import Any

from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from raykd.errors import plural
from raykd.report import search_wording
from raykd.report.figures.axes import LEGEND_ROW, Drawing, add_legend, figure_of_height, letters
from raykd.report.figures.field_scales import Scale, scale_of, set_scale, wrapped
from raykd.report.figures.svg import BAD, GRID, INK, PAPER, QUIET, STAGE_COLORS
from raykd.report.figures.trial_marks import (
    Window,
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
from raykd.report.search_wording import configuration_in_words
from raykd.report.stats.metrics import SEARCH_METRICS

NUM_TOP = 5  # trials that are emphasized, and named in the description for screen readers
ROW = 0.6  # inches for each axis of the parallel coordinates
ROW_LETTERS = 60  # characters beside each other on one of these axes
SLICE_HEIGHT = 1.75  # inches
SLICE_LETTERS = 25  # characters beside each other on the axis of one slice, in a row of two
TOP_WIDTH = 1.6  # points, lines of the top trials
FAINT = {"done": {"alpha": 0.5}, "pruned": {"alpha": 0.4}, "failed": {"alpha": 0.6}}  # the lines of other trials


def complete_trials(summary: SearchSummary) -> list[TrialSummary]:
    """Return the trials that ended and have a value of every field; [] while none has a value of the metric."""
    fields = summary.search.space.keys()
    shown = [trial for trial in summary.trials if trial.is_ended and trial.configuration.keys() >= fields]
    return shown if any(height_of(trial) is not None for trial in shown) else []


def draw_parallel(summary: SearchSummary, key: str) -> Drawing | None:
    """Draw a line for each trial through its value of each field and each metric."""
    shown = complete_trials(summary)
    if not shown:
        return None
    space, metrics = summary.search.space, summary.search.metrics
    labels = search_wording.labels(list(space))
    scales = {labels[path]: scale_of(field) for path, field in space.items()}
    windows = [_window(summary, shown, number) for number in range(len(metrics))]
    for metric, window in zip(metrics, windows, strict=True):
        scales[SEARCH_METRICS[metric].name_with_unit] = Scale(window.low, window.high)
    entries = _lines_legend(summary, shown)
    figure = figure_of_height(ROW * len(scales) + LEGEND_ROW * -(-len(entries) // 3))
    axes = figure.add_subplot()
    _add_rows(axes, scales)
    places = list(scales.values())
    for trial in shown:
        values = [trial.configuration[path] for path in space]
        values += [_metric_of(trial, number, window) for number, window in enumerate(windows)]
        x = [scale.position(value) for scale, value in zip(places, values, strict=True)]
        axes.plot(x, range(len(x)), **_style_of(summary, trial))
        add_trial(axes, summary, trial, x[-1], len(x) - 1, INK)
    add_legend(figure, 3, entries)
    best = [summary.trial(number) for number in summary.best[:NUM_TOP]]
    named = "; ".join(
        f"{search_wording.trial_and_values(summary, trial)} at {configuration_in_words(trial.configuration)}"
        for trial in best
    )
    return Drawing(
        figure,
        key,
        f"{' and '.join(SEARCH_METRICS[metric].label for metric in metrics)} over {', '.join(labels.values())}",
        f"Best first: {named or 'none done'}. {search_wording.progress(summary)}.",
        _parallel_caption(shown, windows),
    )


def draw_slices(summary: SearchSummary, key: str) -> Drawing | None:
    """Draw the metric over each field, in two columns."""
    shown = complete_trials(summary)
    if not shown:
        return None
    space = summary.search.space
    labels = search_wording.labels(list(space))
    num_columns = min(2, len(space))
    num_rows = -(-len(space) // num_columns)
    entries = legend_of(summary, shown)
    height = SLICE_HEIGHT * num_rows * (3 - num_columns) + LEGEND_ROW * -(-len(entries) // 3)
    figure = figure_of_height(height)
    grid = figure.subplots(num_rows, num_columns, squeeze=False).flatten()
    windows = []
    for number, (path, field) in enumerate(space.items()):
        scale, axes = scale_of(field), grid[number]
        places = {trial.number: scale.position(trial.configuration[path]) for trial in shown}
        windows.append(add_trials(axes, summary, places))
        length = letters(SLICE_LETTERS * (3 - num_columns))
        set_scale(axes, "x", scale, wrapped(labels[path], length), length)
        axes.set_ylabel("" if number % num_columns else axes.get_ylabel().replace(" ", "\n", 1))  # slices are low
        if number % num_columns:
            axes.tick_params(labelleft=False)
    for axes in grid[len(space) :]:
        axes.set_visible(False)
    add_legend(figure, 3, entries)
    label = SEARCH_METRICS[summary.search.metrics[0]].label
    over = ", ".join(labels.values())
    description = f"{plural(len(space), 'plot')} of {label}, over {over}. {search_wording.progress(summary)}."
    caption = caption_of(shown, windows[0])
    if len(space) > 1:
        caption += " In each plot the other fields vary too."
    return Drawing(figure, key, f"{label.capitalize()} over each field", description, caption)


def _add_rows(axes: Axes, scales: dict[str, Scale]) -> None:
    """Draw a horizontal axis for each scale, with its name above and its ticks below."""
    axes.set_axis_off()
    axes.set_xlim(-0.03, 1.03)
    axes.set_ylim(len(scales) - 0.5, -0.45)
    behind: dict[str, Any] = {"facecolor": PAPER, "edgecolor": "none", "pad": 0.6, "alpha": 0.85}
    for row, (label, scale) in enumerate(scales.items()):
        places, texts = zip(*scale.ticks(letters(ROW_LETTERS)), strict=True)
        axes.plot([0, 1], [row, row], color=GRID, linewidth=1.2, zorder=1)
        axes.plot(places, [row] * len(places), "|", color=QUIET, markersize=6, zorder=1)
        for place, text in zip(places, texts, strict=True):
            position = place, row + 0.14
            axes.text(*position, text, ha="center", va="top", color=QUIET, fontsize="small", bbox=behind, zorder=6)
        axes.text(
            0, row - 0.14, label, ha="left", va="bottom", fontsize=rcParams["legend.fontsize"], bbox=behind, zorder=6
        )


def _window(summary: SearchSummary, shown: Sequence[TrialSummary], number: int) -> Window:
    """Return the part of the metric `number` that its axis shows."""
    settled = [trial.values[number] for trial in shown if trial.values]
    values = [height for trial in shown if number == 0 and (height := height_of(trial)) is not None]
    return window_of(summary.search.metrics[number], settled, values or settled)


def _metric_of(trial: TrialSummary, number: int, window: Window) -> float:
    """Return the metric `number` of a trial inside the window; one without a value is at its worse end."""
    value = height_of(trial) if number == 0 else trial.values[number] if trial.values else None
    return window.edge if value is None else window.clip(value)


def _style_of(summary: SearchSummary, trial: TrialSummary) -> dict[str, Any]:
    """Return the style of a trial's line, which is stronger for the top trials."""
    style = line_style(summary, trial)
    if trial in (summary.trial_of_winner, summary.default_trial):
        return style
    is_top = trial.number in _top(summary)
    return style | ({"linewidth": TOP_WIDTH, "alpha": 1.0, "zorder": 3} if is_top else FAINT[trial.state])


def _top(summary: SearchSummary) -> Sequence[int]:
    """Return the numbers of the trials to emphasize: the best few, or all Pareto-optimal ones."""
    return summary.best[:NUM_TOP] if len(summary.search.metrics) == 1 else summary.best


def _lines_legend(summary: SearchSummary, shown: Sequence[TrialSummary]) -> list[Line2D]:
    states = {trial.state for trial in shown}
    top = "Pareto-optimal" if len(summary.search.metrics) > 1 else f"best {len(_top(summary))}"
    winner, default = summary.trial_of_winner, summary.default_trial
    styles = {
        name_of_winner(summary): (winner in shown, {"color": STAGE_COLORS["distilled"], "linewidth": 2.2}),
        "default configuration": (
            default in shown and default is not winner,
            {"color": STAGE_COLORS["baseline"], "linewidth": 1.6},
        ),
        top: (bool(summary.best), {"color": INK, "linewidth": TOP_WIDTH}),
        "done": ("done" in states, {"color": INK, "linewidth": 0.8, **FAINT["done"]}),
        "pruned": ("pruned" in states, {"color": QUIET, "linewidth": 0.8, "marker": "o", "mfc": PAPER}),
        "failed": ("failed" in states, {"color": BAD, "linewidth": 0.8, "marker": "x"}),
    }
    return [Line2D([], [], markersize=5, label=name, **style) for name, (is_shown, style) in styles.items() if is_shown]


def _parallel_caption(shown: Sequence[TrialSummary], windows: Sequence[Window]) -> str:
    parts = ["A line is a trial, from its value of each field down to its metric; the mark at its end is its state."]
    if any(trial.state == "pruned" for trial in shown):
        parts.append("A pruned trial ends at its last value.")
    if any(trial.state == "failed" for trial in shown):
        parts.append("A failed trial without a value ends at the worse end.")
    if any(window.cut is not None for window in windows):
        parts.append("Values that are worse than the axis of a metric shows are drawn at its worse end.")
    return " ".join(parts)
