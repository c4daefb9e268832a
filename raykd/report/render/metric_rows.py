"""The rows of two tables, for the terminal and the page: all metrics of a family, and what its models cost."""

from collections.abc import Mapping
from dataclasses import dataclass

from raykd.report import wording
from raykd.report.stats.metrics import METRICS
from raykd.report.stats.statistics import Spread
from raykd.report.stats.summary import FamilySummary, StageSummary
from raykd.spec.stages import Stage

COSTS = ("parameters", "GFLOPs", "latency (ms)", "images/s", "GPU time", "energy")
COSTS_EXPLAINED = "latency: of one image, median [p10, p90]; images/s: in batches of 256; a multiply-add is 2 FLOPs"


@dataclass(frozen=True)
class MetricRow:
    """A metric on the test set: its name with the unit, mean ± standard deviation of each stage, the paired gain."""

    label: str
    stages: Mapping[Stage, str]
    gain: str


@dataclass(frozen=True)
class CostRow:
    """The costs of a stage's model and of its training: a value for each of COSTS, '-' where it is not known."""

    stage: Stage
    values: Mapping[str, str]


def metric_rows(summary: FamilySummary) -> tuple[MetricRow, ...]:
    """Return a row for each metric that a stage has; () without any result."""
    if not any(stage.top1 for stage in summary.stages):
        return ()
    rows = [_metric_row(summary, name) for name in METRICS]
    return tuple(row for row in rows if set(row.stages.values()) != {"-"})


def cost_rows(summary: FamilySummary) -> tuple[CostRow, ...]:
    """Return a row for each stage; () where nothing was measured."""
    if not any(stage.costs or stage.gpu_seconds for stage in summary.stages):
        return ()
    return tuple(CostRow(stage.stage, dict(zip(COSTS, _costs(stage), strict=True))) for stage in summary.stages)


def devices_of(summary: FamilySummary) -> tuple[str, ...]:
    """Return the devices on which the family's models were measured."""
    return tuple(dict.fromkeys(wording.device(cost) for stage in summary.stages for cost in stage.costs))


def _metric_row(summary: FamilySummary, name: str) -> MetricRow:
    digits = METRICS[name].digits
    spreads: dict[Stage, Spread | None] = {
        stage.stage: stage.top1 if name == "top1" else stage.metrics.get(name) for stage in summary.stages
    }
    cells: dict[Stage, str] = {stage: wording.mean_std(spread, digits) for stage, spread in spreads.items()}
    return MetricRow(METRICS[name].name_with_unit, cells, wording.gain(summary.gains.get(name), digits))


def _costs(stage: StageSummary) -> tuple[str, ...]:
    measured = ("-", "-", "-")
    if stage.costs:
        first = stage.costs[0]
        latency = first.latency_ms
        measured = (
            f"{first.flops / 1e9:.3g}",
            f"{latency.median:.3g} [{latency.p10:.3g}, {latency.p90:.3g}]",
            f"{first.images_per_s.median:,.0f}",
        )
    seconds = stage.gpu_seconds
    return (
        wording.parameters(stage.parameters),
        *measured,
        wording.duration(seconds.mean) if seconds and seconds.mean else "-",
        wording.energy(stage.joules.mean if stage.joules else None),
    )
