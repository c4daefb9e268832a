"""The cells of two tables, for the terminal and the page: all metrics of a family, and what its models cost.

Cells are {heading: text}; '-' stands for a number that is not known.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from raykd.errors import plural
from raykd.report import wording
from raykd.report.stats.metrics import BALANCED_METRICS, METRICS, Metric
from raykd.report.stats.paired_interval import PairedGain, Spread
from raykd.report.stats.significance import FEWEST_SEEDS
from raykd.report.stats.summary import FamilySummary, StageSummary
from raykd.spec.stages import STAGES, Stage
from raykd.store.records import Costs
from raykd.units import duration

COST_COLUMNS = ("parameters", "FLOPs", "latency (ms)", "images/s", "GPU time", "energy")
COST_EXPLANATION = (
    "latency: median [p10, p90] for one image; images/s: in batches of 256; both while other runs may use the machine, "
    "and the GPU if they share it; one multiply-add is 2 FLOPs"
)


@dataclass(frozen=True)
class MetricRow:
    """A test metric: mean ± standard deviation by stage, the paired gain, and the better side.

    name: with its unit. detail: how the metric is computed, or ''. arrow: the direction that is better. in_favor:
    'distilled', 'baseline', or '-' if the gain is not distinguishable from 0.
    """

    name: str
    detail: str
    arrow: str
    cells: Mapping[Stage, str]
    gain: str
    in_favor: str


@dataclass(frozen=True)
class CostRow:
    """What a stage's model costs on one device. name: the stage, with the device's number if there are several."""

    stage: Stage
    name: str
    cells: dict[str, str]


def metric_rows(summary: FamilySummary) -> tuple[MetricRow, ...]:
    """Return a row for each test metric that a stage has. For data with unequal classes, BALANCED_METRICS follow."""
    return tuple(_metric_rows(summary))


def metric_notes(summary: FamilySummary) -> list[str]:
    """Return the sentences on the gains in the table, without capitals and full stops; none without a gain."""
    gain = summary.gain
    if gain is None:
        return []
    notes = ["a gain above 0 is in favor of distillation, also for metrics where lower is better"]
    if len(gain.pairs) < FEWEST_SEEDS:
        notes.append(f"no metric is in favor of a student: n = {len(gain.pairs)} is too small")
    else:
        notes.append("where the interval includes 0, the gain is in favor of neither student")
        notes.append("the metrics are tested separately, without correction for their number")
    if gain.num_methods > 1:
        notes.append(f"only the gain in top-1 is corrected for {gain.num_methods} methods")
    return [*notes, *wording.exact_tests(gain)]


def _metric_rows(summary: FamilySummary) -> Iterator[MetricRow]:
    for name, metric in METRICS.items():
        spreads: dict[Stage, Spread | None] = {
            stage.stage: stage.top1 if name == "top1" else stage.metrics.get(name) for stage in summary.stages
        }
        if any(spreads.values()):
            detail = _bins(summary) if name == "ece" else ""
            yield _metric_row(metric, spreads, summary.gains.get(name), detail)
    if imbalance := summary.imbalance:
        for name, metric in BALANCED_METRICS.items():
            yield _metric_row(metric, imbalance.spreads[name], imbalance.gains.get(name))


def _metric_row(
    metric: Metric, spreads: Mapping[Stage, Spread | None], gain: PairedGain | None, detail: str = ""
) -> MetricRow:
    in_favor = "-"
    if gain is not None and gain.is_distinguishable:
        in_favor = "distilled" if gain.spread.mean > 0 else "baseline"
    return MetricRow(
        metric.name_with_unit,
        detail,
        "\N{DOWNWARDS ARROW}" if metric.lower_is_better else "\N{UPWARDS ARROW}",
        {stage: wording.mean_std(spreads.get(stage), metric.decimals) for stage in STAGES},
        wording.gain(gain, metric.decimals),
        in_favor,
    )


def _bins(summary: FamilySummary) -> str:
    """Return '15 bins' if all stages have as many bins of confidence."""
    counts = {len(stage.reliability.count) for stage in summary.stages if stage.reliability}
    return plural(counts.pop(), "bin") if len(counts) == 1 else ""


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
            wording.flops(costs.flops),
            f"{latency.median:.3g} [{latency.p10:.3g}, {latency.p90:.3g}]",
            f"{costs.images_per_s.median:,.0f}",
        )
    seconds = stage.gpu_seconds
    return (
        wording.parameters(stage.parameters),
        *measured,
        duration(seconds.mean) if seconds and seconds.mean else "-",
        wording.energy(stage.joules.mean if stage.joules else None),
    )
