"""The metric over the two most important numeric fields: each trial, and a linear interpolation between the trials.

The interpolation is exact at each trial and linear in each triangle of the trials' Delaunay triangulation, on the
scales of both fields. Outside of the trials there is no fill. It shows the noise of single trials too, and other fields
vary. The values are those of the importances: of all trials after the same number of epochs.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.tri import Triangulation

from raykd.errors import plural
from raykd.report import search_wording
from raykd.report.figures.axes import Drawing, letters, plain_axes
from raykd.report.figures.field_scales import Scale, is_numeric, scale_of, set_scale
from raykd.report.figures.search_fields import complete_trials
from raykd.report.figures.svg import LEVEL_COLORS, QUIET
from raykd.report.figures.trial_marks import add_trial, legend_of, swatch
from raykd.report.read.search_results import SearchSummary, TrialSummary
from raykd.report.search_wording import value_in_units
from raykd.report.stats.importances import MIN_TRIALS, Importances, Scored, comparable_values, epochs_in_words
from raykd.report.stats.metrics import SEARCH_METRICS

LETTERS = {"x": 56, "y": 40}  # characters beside each other on an axis; those of y are lines, with space around them
TITLE_LINES = 2  # of the legend of the colors
FLAT = 1e-6  # of an axis: trials within it are on one line


def why_no_contour(summary: SearchSummary, importances: Importances | None) -> str:
    """Return why the figure is left out, in one sentence; '' if it is drawn."""
    num_numeric = sum(is_numeric(space) for space in summary.search.space.values())
    if num_numeric < 2:
        return "There is no contour of two fields, because fewer than two searched fields are numbers."
    if importances is None:
        return (
            f"There is no contour of the two most important fields yet: it requires {MIN_TRIALS} trials with different "
            "values of the metric."
        )
    plane = _plane(summary, importances)
    places = plane.places([trial for trial, _ in comparable_values(summary)[1]])
    if np.linalg.matrix_rank(places - places.mean(axis=0), tol=FLAT) < 2:
        fields = " and ".join(plane.labels)
        return f"There is no contour of {fields}, because the trials are on one line in the plane of both."
    return ""


def draw_contour(summary: SearchSummary, importances: Importances | None, key: str) -> Drawing | None:
    """Draw the two most important numeric fields against each other; None with a reason of `why_no_contour`."""
    if importances is None or why_no_contour(summary, importances):
        return None
    shown, metric = complete_trials(summary), summary.search.metrics[0]
    plane = _plane(summary, importances)
    labels = plane.labels
    after, scored = comparable_values(summary)
    groups = rank_groups(scored, SEARCH_METRICS[metric].sign)
    last, steps = len(LEVEL_COLORS) - 1, max(1, len(groups) - 1)  # colors are evenly spread up to the best one
    colors = [LEVEL_COLORS[last - last * (len(groups) - 1 - group) // steps] for group in range(len(groups))]
    marks = legend_of(summary, shown, QUIET)
    figure, axes = plain_axes(max(len(groups) + TITLE_LINES, len(marks)))
    set_scale(axes, "x", plane.scales[0], labels[0], letters(LETTERS["x"]))
    set_scale(axes, "y", plane.scales[1], labels[1], letters(LETTERS["y"]))
    _fill(axes, plane.places([trial for trial, _ in scored]), scored, groups, colors)
    fills = {trial.number: color for group, color in zip(groups, colors, strict=True) for trial, _ in group}
    for trial, (x, y) in zip(shown, plane.places(shown).tolist(), strict=True):
        add_trial(axes, summary, trial, x, y, fills.get(trial.number, ""))
    when, label = epochs_in_words(after), SEARCH_METRICS[metric].label
    _add_legends(figure, f"{label}\n{when}", _legend_of_groups(metric, groups, colors), marks)
    best = max(groups[-1], key=lambda pair: SEARCH_METRICS[metric].sign * pair[1])
    return Drawing(
        figure,
        key,
        f"{label.capitalize()} over {labels[0]} and {labels[1]}, {when}",
        f"The best {when}: trial {best[0].number}, {value_in_units(metric, best[1])}.",
        _caption(summary, shown, label, after, len(scored)),
    )


def rank_groups(scored: Scored, sign: int) -> list[Scored]:
    """Split trials into at most five groups of about the same size, worst first; equal values share one.

    Steps of equal width would leave one color to all but a few bad trials. sign: 1 if a greater value is better.
    """
    ranked = sorted(scored, key=lambda pair: sign * pair[1])
    values = [value for _, value in ranked]
    steps = [len(LEVEL_COLORS) * values.index(value) // len(ranked) for value in values]
    return [[pair for pair, group in zip(ranked, steps, strict=True) if group == step] for step in sorted(set(steps))]


@dataclass(frozen=True)
class _Plane:
    """The two most important fields that are numbers, with their labels and scales; x is first."""

    fields: Sequence[str]
    labels: Sequence[str]
    scales: Sequence[Scale]

    def places(self, trials: Iterable[TrialSummary]) -> np.ndarray:
        """Return the places of the trials on both axes, [trials, 2]."""
        fields = list(zip(self.fields, self.scales, strict=True))
        return np.array([[scale.position(trial.configuration[path]) for path, scale in fields] for trial in trials])


def _plane(summary: SearchSummary, importances: Importances) -> _Plane:
    space, labels = summary.search.space, search_wording.labels(list(summary.search.space))
    fields = [path for path in importances.shares if is_numeric(space[path])][:2]
    return _Plane(fields, [labels[path] for path in fields], [scale_of(space[path]) for path in fields])


def _fill(axes: Axes, places: np.ndarray, scored: Scored, groups: Sequence[Scored], colors: Sequence[str]) -> None:
    """Fill the triangles between the trials. A color covers the values of its group, and half of the gap beside it."""
    distinct, index = np.unique(places, axis=0, return_inverse=True)
    index = index.reshape(-1)
    values = np.array([value for _, value in scored])
    means = np.bincount(index, values) / np.bincount(index)  # trials with the same values of both fields
    ends = [sorted(value for _, value in group) for group in groups]
    order = sorted(zip(ends, colors, strict=True))  # levels must increase; a smaller loss is better
    between = [(low[-1] + high[0]) / 2 for (low, _), (high, _) in pairwise(order)]
    levels = [order[0][0][0] - 1, *between, order[-1][0][-1] + 1]
    triangles = Triangulation(distinct[:, 0], distinct[:, 1])
    axes.tricontourf(triangles, means, levels=levels, colors=[color for _, color in order], alpha=0.3, zorder=0.5)


def _add_legends(figure: Figure, title: str, colors: list[Line2D], marks: list[Line2D]) -> None:
    """Add the legend of the colors above the axes on the left, with its title, and that of the marks on the right."""
    size = rcParams["legend.fontsize"]
    style = {"borderpad": 0, "alignment": "left", "title_fontsize": size}
    figure.legend(handles=colors, loc="outside upper left", title=title, **style)
    figure.legend(handles=marks, loc="outside upper right", **style)


def _legend_of_groups(metric: str, groups: Sequence[Scored], colors: Sequence[str]) -> list[Line2D]:
    """Return an entry with the range of values of each group, best first."""
    entries = []
    for group, color in zip(reversed(groups), reversed(colors), strict=True):
        ends = sorted({group[0][1], group[-1][1]})
        texts = dict.fromkeys(value_in_units(metric, end) for end in ends)
        entries.append(swatch(" to ".join(texts), color))
    return entries


def _caption(
    summary: SearchSummary, shown: Sequence[TrialSummary], label: str, after: int | None, num_trials: int
) -> str:
    when = epochs_in_words(after)
    parts = [f"The fill interpolates {label} {when} linearly between {plural(num_trials, 'trial')}."]
    parts.append("Colors are groups of about the same size, from worst to best.")
    if after is not None:
        parts.append(f"Trials are selected by their best epoch, so the best one need not be ahead {when}.")
    if any(trial.state == "pruned" for trial in shown):
        parts.append("A pruned trial is hollow; its size shows how many epochs it trained.")
    if len(summary.search.space) > 2:
        parts.append("The other searched fields vary too.")
    return " ".join(parts)
