"""Accuracy against the cost of using a model: its parameters, and its latency on one device."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from raykd.errors import flattened
from raykd.report import wording
from raykd.report.figures.axes import Drawing, add_legend, plain_axes, use_log
from raykd.report.figures.stages import MARKERS
from raykd.report.figures.svg import INK, QUIET, STAGE_COLORS, page_style
from raykd.report.stats.summary import FamilySummary, StageSummary
from raykd.spec.stages import STAGES, Stage

LOG_RATIO = 5  # costs that span a greater ratio are drawn on a log scale


@dataclass(frozen=True)
class _Point:
    """A stage's cost with its range, and its test top-1 over seeds, in percent."""

    family: str
    stage: Stage
    cost: float
    low: float
    high: float
    top1: float
    std: float


def draw_tradeoffs(summaries: Sequence[FamilySummary]) -> dict[str, Drawing]:
    """Return the figures by their headings, with all families in each; figures without data are left out."""
    devices = Counter(
        device for summary in summaries for stage in summary.stages for device in set(map(wording.device, stage.costs))
    )
    # Latencies of different devices are not comparable, so the figure shows one: the device of the most stages.
    device = max(sorted(devices), key=devices.__getitem__, default=None)

    def latency(stage: StageSummary) -> tuple[float, float, float] | None:
        measured = [cost for cost in stage.costs if wording.device(cost) == device]
        timing = measured[0].latency_ms if measured else None
        return (timing.median, timing.p10, timing.p90) if timing else None

    with page_style():
        drawings = {
            "Accuracy and parameters": _draw(_points(summaries, _parameters), "parameters (millions)", ""),
            "Accuracy and latency": _draw(
                _points(summaries, latency),
                "latency of one image (ms)",
                f"Median forward pass of one image, with the 10th to 90th percentile, on {device}.",
            ),
        }
    return {heading: drawing for heading, drawing in drawings.items() if drawing}


def _parameters(stage: StageSummary) -> tuple[float, float, float] | None:
    if stage.parameters is None:
        return None
    millions = stage.parameters / 1e6
    return millions, millions, millions


def _points(
    summaries: Sequence[FamilySummary], cost_of: Callable[[StageSummary], tuple[float, float, float] | None]
) -> list[_Point]:
    return [
        _Point(summary.name, stage.stage, *cost, stage.top1.mean, stage.top1.std or 0.0)
        for summary in summaries
        for stage in summary.stages
        if stage.top1 and (cost := cost_of(stage))
    ]


def _draw(points: list[_Point], label: str, caption: str) -> Drawing | None:
    if not points:
        return None
    figure, axes = plain_axes()
    families = list(dict.fromkeys(point.family for point in points))
    for family in families:
        _join(
            [point for point in points if point.family == family], axes, flattened(family, 20) if families[1:] else ""
        )
    for stage in STAGES:
        if stage_points := [point for point in points if point.stage == stage]:
            _add_points(axes, stage_points, stage)
    costs = [point.cost for point in points]
    if max(costs) > LOG_RATIO * min(costs):
        use_log(axes, "x")
    else:
        axes.set_xlim(left=0)
    axes.margins(x=0.12, y=0.12)
    axes.set_xlabel(label)
    axes.set_ylabel("test top-1 (%)")
    add_legend(figure, num_columns=3)
    described = "; ".join(f"{point.family} {point.stage} {point.top1:.2f} % at {point.cost:.4g}" for point in points)
    key = "all-" + label.split()[0]
    caption = f"Mean and standard deviation over seeds; up and to the left is better. {caption}".rstrip()
    return Drawing(figure, key, f"Test top-1 against {label}", f"{described}.", caption)


def _join(points: list[_Point], axes: Axes, name: str) -> None:
    """Draw thin lines from a family's first point to the others, and its name, if any, at the first point."""
    first = points[0]
    for point in points[1:]:
        axes.plot([first.cost, point.cost], [first.top1, point.top1], color=QUIET, linewidth=0.8, zorder=1)
    if name:
        place = {"xytext": (0, 8), "textcoords": "offset points", "ha": "center", "fontsize": 8.5}
        axes.annotate(name, (first.cost, first.top1), color=INK, **place)


def _add_points(axes: Axes, points: list[_Point], stage: Stage) -> None:
    axes.errorbar(
        [point.cost for point in points],
        [point.top1 for point in points],
        xerr=[[point.cost - point.low for point in points], [point.high - point.cost for point in points]],
        yerr=[point.std for point in points],
        color=STAGE_COLORS[stage],
        marker=MARKERS[stage],
        markersize=6.5,
        linestyle="none",
        linewidth=1.2,
        label=stage,
    )
