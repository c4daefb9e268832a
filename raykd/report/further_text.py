"""What `python -m raykd report` says beyond a lab's short table: all measures, tests, costs."""

from collections.abc import Iterator

from rich.table import Table

from raykd.messages import flattened
from raykd.report import wording
from raykd.report.further import COSTS, COSTS_EXPLAINED, cost_rows, measure_rows, places_of
from raykd.report.plain import plain_table
from raykd.report.summary import FamilySummary
from raykd.stages import STAGES


def further_parts(summary: FamilySummary) -> Iterator[Table | str]:
    """Of a family whose short table stands above."""
    if measure_rows(summary):
        yield _measures_table(summary)
        if summary.gain is not None:
            yield "a gain above 0 is in favour of distilling, also where less is better"
            yield wording.exact_tests(summary.gain)
    if cost_rows(summary):
        yield _costs_table(summary)
        places = places_of(tuple(cost for stage in summary.stages for cost in stage.costs))
        yield from (f"measured on {place}" for place in places)
        if places:
            yield COSTS_EXPLAINED


def _measures_table(summary: FamilySummary) -> Table:
    table = plain_table("on the test set")
    table.add_column("measure", overflow="fold")
    for stage in STAGES:
        table.add_column(stage, justify="right", no_wrap=True)
    table.add_column("gain [95 % interval]", justify="right", no_wrap=True)
    for row in measure_rows(summary):
        table.add_row(flattened(row.label, 40), *(row.stages[stage] for stage in STAGES), row.gain)
    return table


def _costs_table(summary: FamilySummary) -> Table:
    table = plain_table("cost of a model, and of training a run")
    for heading in ("stage", *COSTS):
        table.add_column(heading, justify="left" if heading == "stage" else "right", no_wrap=True)
    for row in cost_rows(summary):
        table.add_row(row.stage, *row.values.values())
    return table
