"""Accuracy against the cost of using a model: its parameters, and its latency on one device."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from raykd.errors import flattened
from raykd.report import wording
from raykd.report.figures.axes import Drawing, add_legend, plain_axes, use_log
from raykd.report.figures.stages import MARKERS
from raykd.report.figures.svg import INK, STAGE_COLORS, Medium, figure_style
from raykd.report.stats.summary import FamilySummary, StageSummary
from raykd.spec.stages import STAGES, Stage
from raykd.store.records import Costs

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


@dataclass(frozen=True)
class _Cost:
    """A cost on the x axis. key: id of the figure. tick, text: how to write a value at the axis, and in a sentence."""

    key: str
    label: str
    tick: Callable[[float], str]
    text: Callable[[float], str]


def _with_prefix(count: float) -> str:
    """Return '50 k' or '2 M', for a round number of parameters."""
    unit, name = next(((unit, name) for unit, name in ((1e6, " M"), (1e3, " k")) if count >= unit), (1, ""))
    return f"{count / unit:g}{name}"


_PARAMETERS = _Cost("all-parameters", "parameters", _with_prefix, lambda count: wording.parameters(round(count)))
_LATENCY = _Cost("all-latency", "latency of one image (ms)", "{:g}".format, "{:.4g} ms".format)


def draw_tradeoffs(summaries: Sequence[FamilySummary], medium: Medium = "page") -> dict[str, Drawing]:
    """Return the figures by their headings, with all families in each; figures without data are left out."""
    devices = Counter(
        device for summary in summaries for stage in summary.stages for device in set(map(wording.device, stage.costs))
    )
    # Latencies of different devices are not comparable, so the figure shows one: the device of the most stages.
    device = max(sorted(devices), key=devices.__getitem__, default=None)

    def costs_of(stage: StageSummary) -> Costs | None:
        return next((costs for costs in stage.costs if wording.device(costs) == device), None)

    def latency(stage: StageSummary) -> tuple[float, float, float] | None:
        costs = costs_of(stage)
        return (costs.latency_ms.median, costs.latency_ms.p10, costs.latency_ms.p90) if costs else None

    caption = f"Median forward pass of one image, with the 10th to 90th percentile, on {device}."
    students = [[costs_of(summary.stage(stage)) for stage in ("baseline", "distilled")] for summary in summaries]
    if any(baseline and baseline == distilled for baseline, distilled in students):  # copied, see training/costs.py
        caption += " Baseline and distilled student are the same network, so its latency is measured once for both."
    with figure_style(medium):
        drawings = {
            "Accuracy and parameters": _draw(_points(summaries, _parameters), _PARAMETERS, ""),
            "Accuracy and latency": _draw(_points(summaries, latency), _LATENCY, caption),
        }
    return {heading: drawing for heading, drawing in drawings.items() if drawing}


def _parameters(stage: StageSummary) -> tuple[float, float, float] | None:
    return None if stage.parameters is None else (stage.parameters, stage.parameters, stage.parameters)


def _points(
    summaries: Sequence[FamilySummary], cost_of: Callable[[StageSummary], tuple[float, float, float] | None]
) -> list[_Point]:
    return [
        _Point(summary.name, stage.stage, *cost, stage.top1.mean, stage.top1.std or 0.0)
        for summary in summaries
        for stage in summary.stages
        if stage.top1 and (cost := cost_of(stage))
    ]


def _draw(points: list[_Point], cost: _Cost, caption: str) -> Drawing | None:
    if not points:
        return None
    figure, axes = plain_axes()
    for stage in STAGES:
        if stage_points := [point for point in points if point.stage == stage]:
            _add_points(axes, stage_points, stage)
    if len({point.family for point in points}) > 1:
        _name_families(axes, points)
    costs = [point.cost for point in points]
    is_log = max(costs) > LOG_RATIO * min(costs)
    if is_log:
        use_log(axes, "x")
    else:
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.xaxis.set_major_formatter(lambda value, _: cost.tick(value))
    axes.margins(x=0.12, y=0.12)
    axes.set_xlabel(f"{cost.label}, log scale" if is_log else cost.label)
    axes.set_ylabel("test top-1 (%)")
    add_legend(figure, num_columns=3)
    described = "; ".join(
        f"{point.family} {point.stage} {point.top1:.2f} % at {cost.text(point.cost)}" for point in points
    )
    caption = f"Mean and standard deviation over seeds; up and to the left is better. {caption}".rstrip()
    return Drawing(figure, cost.key, f"Test top-1 against {cost.label}", f"{described}.", caption)


def _name_families(axes: Axes, points: list[_Point]) -> None:
    """Write the name of its family above the best of the points with the same cost."""
    best: dict[tuple[str, float], _Point] = {}
    for point in sorted(points, key=lambda point: point.top1):
        best[point.family, point.cost] = point
    style = {"textcoords": "offset points", "ha": "center", "fontsize": rcParams["legend.fontsize"]}
    for point in best.values():
        axes.annotate(flattened(point.family, 20), (point.cost, point.top1 + point.std), (0, 6), color=INK, **style)


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
