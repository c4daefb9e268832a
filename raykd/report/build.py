"""The report's one entry: run folders in, report.json and report/ out."""

from dataclasses import dataclass
from pathlib import Path

from raykd.atomic import write_bytes
from raykd.report import tables
from raykd.report.collect import collect
from raykd.report.html import render_page
from raykd.report.summary import FamilySummary, summarize


@dataclass(frozen=True)
class Report:
    """What was found and which files tell it; `text.render_text` says it in the terminal."""

    summaries: tuple[FamilySummary, ...]
    page: Path
    files: tuple[Path, ...]

    @property
    def is_complete(self) -> bool:
        """Whether every run of every plan is evaluated and has its history."""
        return not any(summary.missing for summary in self.summaries)


def build(results: Path) -> Report:
    """Writes report.json, and beside it report/: index.html, summary.json, runs.parquet, runs.csv.

    Raises: ConfigError when `results` holds no plan; RaykdError naming the file when a run's file is corrupt.
    Nothing is written then. Unfinished runs are no error: the report names them.
    """
    summaries = tuple(summarize(family) for family in collect(results))
    runs = tables.runs_table(summaries)
    page = results / "report" / "index.html"
    contents = {
        results / "report.json": tables.report_json(summaries),
        page.with_name("summary.json"): tables.summary_json(summaries),
        page.with_name("runs.parquet"): tables.parquet_bytes(runs),
        page.with_name("runs.csv"): tables.csv_bytes(runs),
        page: render_page(summaries),
    }
    for path, content in contents.items():
        write_bytes(path, content)
    return Report(summaries, page, tuple(contents))
