"""The report for the terminal, or a Slurm log: each family's stages and gain, then each search."""

from collections.abc import Iterator

from rich.table import Table
from rich.text import Text

from raykd.messages import flattened
from raykd.report import wording
from raykd.report.build import Report
from raykd.report.comparison_text import render_comparison
from raykd.report.further_text import further_parts
from raykd.report.plain import plain_table, plain_text
from raykd.report.search_text import render_search
from raykd.report.summary import FamilySummary


def render_text(report: Report, in_full: bool = False) -> str:
    """A table a family, its gain, what is missing; each search; and where the page is. Ends with a line break.

    in_full: all measures, tests and costs too, and methods ranked.
    """
    return plain_text(_parts(report, in_full))


def _parts(report: Report, in_full: bool) -> Iterator[Table | str]:
    for summary in report.summaries:
        yield _stage_table(summary)
        yield from _lines_under(summary)
        if in_full:
            yield from further_parts(summary)
        yield ""
        if summary.comparison is not None:
            yield from render_comparison(summary.name, summary.comparison)
            yield ""
    for search in report.searches:
        yield from render_search(search).splitlines()
        yield ""
    yield f"report: {report.page}"


def _stage_table(summary: FamilySummary) -> Table:
    table = plain_table(flattened(summary.name))
    for heading in ("stage", "model", "method"):
        table.add_column(heading, overflow="fold")
    for heading in ("test top1 (%)", "n", "parameters", "training of a run"):
        table.add_column(heading, justify="right", no_wrap=True)
    for stage in summary.stages:
        table.add_row(
            stage.stage,
            Text(flattened(stage.model or "-")),
            Text(flattened(stage.method or "-")),
            wording.percent(stage.top1),
            f"{stage.top1.num_runs if stage.top1 else 0} of {stage.num_planned}",
            wording.parameters(stage.parameters),
            wording.duration(stage.seconds.mean if stage.seconds else None),
        )
    return table


def _lines_under(summary: FamilySummary) -> list[str]:
    lines = []
    if summary.gain is None:
        lines.append("gain: no seed has both a baseline and a distilled result yet")
    else:
        gain = summary.gain
        lines.append(
            f"gain: {wording.points(gain.spread.mean)} points {wording.interval(gain)}".rstrip()
            + f"; {gain.verdict}; {wording.in_favour(gain)}"
        )
    lines += [f"beware: {caution}" for caution in summary.cautions]
    return lines + [f"missing: {flattened(line, 400)}" for line in summary.missing]
