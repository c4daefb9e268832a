"""The report for the terminal: plain letters and lines of fixed width, as a Slurm log has no terminal."""

import io

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from raykd.report import wording
from raykd.report.build import Report
from raykd.report.records import one_line
from raykd.report.summary import FamilySummary

WIDTH = 100


def render_text(report: Report) -> str:
    """A table a family, its gain, what is missing, and where the page is. Ends with a line break."""
    output = io.StringIO()
    console = Console(file=output, width=WIDTH, color_system=None, force_terminal=False, legacy_windows=False)
    for summary in report.summaries:
        console.print(_stage_table(summary))
        for line in _lines_under(summary):
            console.print(Text(line), soft_wrap=True)
        console.print()
    console.print(Text(f"report: {report.page}"), soft_wrap=True)
    return "\n".join(line.rstrip() for line in output.getvalue().splitlines()) + "\n"


def _stage_table(summary: FamilySummary) -> Table:
    table = Table(title=Text(one_line(summary.name)), title_justify="left", title_style="", box=box.ASCII2)
    for heading in ("stage", "model", "method"):
        table.add_column(heading, overflow="fold")
    for heading in ("test top1 (%)", "n", "parameters", "training of a run"):
        table.add_column(heading, justify="right", no_wrap=True)
    for stage in summary.stages:
        table.add_row(
            stage.stage,
            Text(one_line(stage.model or "-")),
            Text(one_line(stage.method or "-")),
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
    return lines + [f"missing: {one_line(line, 400)}" for line in summary.missing]
