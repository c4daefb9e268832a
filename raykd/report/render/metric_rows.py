"""The cells of two tables, for the terminal and the page: all metrics of a family, and what its models cost.

Cells are {heading: text}; '-' stands for a number that is not known.
"""

from dataclasses import dataclass

from raykd.report import wording
from raykd.report.stats.metrics import BALANCED_METRICS, METRICS
from raykd.report.stats.summary import FamilySummary, StageSummary
from raykd.spec.stages import STAGES, Stage
from raykd.store.records import Costs

COST_COLUMNS = ("parameters", "GFLOPs", "latency (ms)", "images/s", "GPU time", "energy")
COST_EXPLANATION = (
    "latency: median [p10, p90] for one image; images/s: in batches of 256; both while other runs may use the machine, "
    "and the GPU if they share it; one multiply-add is 2 FLOPs"
)

Cells = dict[str, dict[str, str]]


@dataclass(frozen=True)
class CostRow:
    """What a stage's model costs on one device. name: the stage, with the device's number if there are several."""

    stage: Stage
    name: str
    cells: dict[str, str]


def metric_cells(summary: FamilySummary) -> Cells:
    """Return mean ± standard deviation of each stage and the paired gain, for each test metric that a stage has.

    For data with unequal classes, metrics with equal weight for each class follow.
    """
    cells: Cells = {}
    for name, metric in METRICS.items():
        spreads = {stage.stage: stage.top1 if name == "top1" else stage.metrics.get(name) for stage in summary.stages}
        if any(spreads.values()):
            row = {stage: wording.mean_std(spread, metric.decimals) for stage, spread in spreads.items()}
            cells[metric.name_with_unit] = {**row, "gain": wording.gain(summary.gains.get(name), metric.decimals)}
    if imbalance := summary.imbalance:
        for name, metric in BALANCED_METRICS.items():
            row = {stage: wording.mean_std(imbalance.spreads[name].get(stage), metric.decimals) for stage in STAGES}
            cells[metric.name_with_unit] = {**row, "gain": wording.gain(imbalance.gains.get(name), metric.decimals)}
    return cells


def cost_rows(summary: FamilySummary) -> tuple[CostRow, ...]:
    """Return a row for each stage, and each device it was measured on; none if nothing was measured.

    Latencies of different devices are not comparable, so with several devices each row has the number of its device.
    """
    if not any(stage.costs or stage.gpu_seconds for stage in summary.stages):
        return ()
    devices, rows = _devices(summary), []
    for stage in summary.stages:
        by_device: dict[str, Costs] = {}
        for costs in stage.costs:
            by_device.setdefault(wording.device(costs), costs)
        for device in sorted(by_device, key=devices.index) or (None,):
            number = f" ({devices.index(device) + 1})" if device and len(devices) > 1 else ""
            texts = _cost_texts(stage, by_device[device] if device else None)
            rows.append(CostRow(stage.stage, f"{stage.stage}{number}", dict(zip(COST_COLUMNS, texts, strict=True))))
    return tuple(rows)


def numbered_devices(summary: FamilySummary) -> tuple[str, ...]:
    """Return the devices on which the family's models were measured, with their numbers if there are several."""
    devices = _devices(summary)
    return devices if len(devices) < 2 else tuple(f"({place}) {device}" for place, device in enumerate(devices, 1))


def _devices(summary: FamilySummary) -> tuple[str, ...]:
    return tuple(dict.fromkeys(wording.device(costs) for stage in summary.stages for costs in stage.costs))


def _cost_texts(stage: StageSummary, costs: Costs | None) -> tuple[str, ...]:
    measured = ("-", "-", "-")
    if costs:
        latency = costs.latency_ms
        measured = (
            f"{costs.flops / 1e9:.3g}",
            f"{latency.median:.3g} [{latency.p10:.3g}, {latency.p90:.3g}]",
            f"{costs.images_per_s.median:,.0f}",
        )
    seconds = stage.gpu_seconds
    return (
        wording.parameters(stage.parameters),
        *measured,
        wording.duration(seconds.mean) if seconds and seconds.mean else "-",
        wording.energy(stage.joules.mean if stage.joules else None),
    )
