"""What `python -m raykd report` says beyond a lab's short table: all measures, tests, costs."""

from collections.abc import Iterator

from rich.table import Table

from raykd.report import wording
from raykd.report.measures import MEASURES
from raykd.report.plain import plain_table
from raykd.report.records import one_line
from raykd.report.summary import FamilySummary, StageSummary
from raykd.stages import STAGES


def further_parts(summary: FamilySummary) -> Iterator[Table | str]:
    """Of a family whose short table stands above."""
    if any(stage.top1 for stage in summary.stages):
        yield _measures_table(summary)
        if summary.gain is not None:
            yield "a gain above 0 is in favour of distilling, also where less is better"
            yield wording.exact_tests(summary.gain)
    if any(stage.costs or stage.gpu_seconds for stage in summary.stages):
        yield _costs_table(summary)
        yield from _devices(summary)


def _measures_table(summary: FamilySummary) -> Table:
    table = plain_table("on the test set")
    table.add_column("measure", overflow="fold")
    for stage in STAGES:
        table.add_column(stage, justify="right", no_wrap=True)
    table.add_column("gain [95 % interval]", justify="right", no_wrap=True)
    for name, measure in MEASURES.items():
        spreads = [stage.top1 if name == "top1" else stage.measures.get(name) for stage in summary.stages]
        if any(spreads):
            label = f"{measure.label} ({measure.unit})" if measure.unit else measure.label
            cells = (wording.rounded(spread, measure.digits) for spread in spreads)
            table.add_row(label, *cells, wording.gain(summary.gains.get(name), measure.digits))
    return table


def _costs_table(summary: FamilySummary) -> Table:
    table = plain_table("cost of a model, and of training a run")
    for heading in ("stage", "parameters", "GFLOPs", "latency (ms)", "images/s", "GPU time", "energy"):
        table.add_column(heading, justify="left" if heading == "stage" else "right", no_wrap=True)
    for stage in summary.stages:
        table.add_row(stage.stage, wording.parameters(stage.parameters), *_costs(stage), *_usage(stage))
    return table


def _costs(stage: StageSummary) -> tuple[str, str, str]:
    if not stage.costs:
        return "-", "-", "-"
    first = stage.costs[0]
    latency = first.latency_ms
    return (
        f"{first.flops / 1e9:.3g}",
        f"{latency.median:.3g} [{latency.p10:.3g}, {latency.p90:.3g}]",
        f"{first.images_per_s.median:,.0f}",
    )


def _usage(stage: StageSummary) -> tuple[str, str]:
    seconds = stage.gpu_seconds
    return (
        wording.duration(seconds.mean) if seconds and seconds.mean else "-",
        wording.energy(stage.joules.mean if stage.joules else None),
    )


def _devices(summary: FamilySummary) -> Iterator[str]:
    """Where the costs were measured, each place once, and what else a reader needs of them."""
    places = {(cost.device, cost.precision, cost.threads): None for stage in summary.stages for cost in stage.costs}
    for device, precision, threads in places:
        how = f", {wording.plural(threads, 'thread')}" if threads else ""
        yield f"measured on {one_line(device)}, {precision}{how}"
    if places:
        yield "latency: of one image, median [p10, p90]; images/s: in batches of 256; a multiply-add is 2 FLOPs"
