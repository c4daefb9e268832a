"""The rows of the further tables, in the terminal and on the page: all measures, what a model costs, where measured."""

from collections.abc import Mapping
from dataclasses import dataclass

from raykd.errors import flattened, plural
from raykd.report import wording
from raykd.report.read.records import MEASURES
from raykd.report.stats.statistics import Spread
from raykd.report.stats.summary import FamilySummary, StageSummary
from raykd.spec.stages import Stage
from raykd.store.records import Costs

COSTS = ("parameters", "GFLOPs", "latency (ms)", "images/s", "GPU time", "energy")
COSTS_EXPLAINED = "latency: of one image, median [p10, p90]; images/s: in batches of 256; a multiply-add is 2 FLOPs"


@dataclass(frozen=True)
class MeasureRow:
    """A measure on the test set: its name with the unit, each stage's mean ± standard deviation, the paired gain."""

    label: str
    stages: Mapping[Stage, str]
    gain: str


@dataclass(frozen=True)
class CostRow:
    """What a stage's model costs and its runs took, a value for each of COSTS; '-' where not known."""

    stage: Stage
    values: Mapping[str, str]


def measure_rows(summary: FamilySummary) -> tuple[MeasureRow, ...]:
    """Return a row for each measure that a stage has."""
    if not any(stage.top1 for stage in summary.stages):
        return ()
    rows = [_measure_row(summary, name) for name in MEASURES]
    return tuple(row for row in rows if set(row.stages.values()) != {"-"})


def cost_rows(summary: FamilySummary) -> tuple[CostRow, ...]:
    """() where no stage has been measured."""
    if not any(stage.costs or stage.gpu_seconds for stage in summary.stages):
        return ()
    return tuple(CostRow(stage.stage, dict(zip(COSTS, _costs(stage), strict=True))) for stage in summary.stages)


def places_of(costs: tuple[Costs, ...]) -> tuple[str, ...]:
    """'an NVIDIA H100, bf16' or 'a processor, fp32, 2 threads': where these were measured, each place once."""
    return tuple(dict.fromkeys(place_of(cost) for cost in costs))


def place_of(cost: Costs) -> str:
    """Device, precision and a CPU's threads: costs of one place can be held against each other."""
    how = f", {plural(cost.threads, 'thread')}" if cost.threads else ""
    return f"{flattened(cost.device)}, {cost.precision}{how}"


def _measure_row(summary: FamilySummary, name: str) -> MeasureRow:
    measure = MEASURES[name]
    spreads: dict[Stage, Spread | None] = {
        stage.stage: stage.top1 if name == "top1" else stage.measures.get(name) for stage in summary.stages
    }
    label = f"{measure.label} ({measure.unit})" if measure.unit else measure.label
    cells: dict[Stage, str] = {stage: wording.rounded(spread, measure.digits) for stage, spread in spreads.items()}
    return MeasureRow(label, cells, wording.gain(summary.gains.get(name), measure.digits))


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
