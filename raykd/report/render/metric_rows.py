"""The cells of two tables, for the terminal and the page: all metrics of a family, and what its models cost.

Both are {row: {column: text}}; '-' stands for a number that is not known.
"""

from raykd.report import wording
from raykd.report.stats.metrics import BALANCED_METRICS, METRICS
from raykd.report.stats.summary import FamilySummary, StageSummary
from raykd.spec.stages import STAGES

COST_COLUMNS = ("parameters", "GFLOPs", "latency (ms)", "images/s", "GPU time", "energy")
COST_EXPLANATION = "latency: median [p10, p90] for one image; images/s: in batches of 256; one multiply-add is 2 FLOPs"

Cells = dict[str, dict[str, str]]


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


def cost_cells(summary: FamilySummary) -> Cells:
    """Return a row for each stage with the costs of its model and of its training; {} if nothing was measured."""
    if not any(stage.costs or stage.gpu_seconds for stage in summary.stages):
        return {}
    return {stage.stage: dict(zip(COST_COLUMNS, _cost_texts(stage), strict=True)) for stage in summary.stages}


def devices_of(summary: FamilySummary) -> tuple[str, ...]:
    """Return the devices on which the family's models were measured."""
    return tuple(dict.fromkeys(wording.device(cost) for stage in summary.stages for cost in stage.costs))


def _cost_texts(stage: StageSummary) -> tuple[str, ...]:
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
