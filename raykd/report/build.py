"""The report's one entry: run folders in, report.json and report/ out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from raykd.atomic import write_bytes
from raykd.report.read.collect import collect
from raykd.report.read.provenance import taught
from raykd.report.read.records import Family
from raykd.report.read.search_records import SearchSummary
from raykd.report.read.search_summary import summaries_of_searches
from raykd.report.render import files
from raykd.report.render.page import render_page
from raykd.report.render.search_page import files_of
from raykd.report.stats.summary import FamilySummary, summarize


@dataclass(frozen=True)
class Report:
    """What was found and which files tell it; `text.render_text` says it in the terminal."""

    summaries: tuple[FamilySummary, ...]
    page: Path
    files: tuple[Path, ...]
    searches: tuple[SearchSummary, ...] = ()

    @property
    def is_complete(self) -> bool:
        """Whether every run of every plan is evaluated and has its history."""
        return not any(summary.missing for summary in self.summaries)


def build(results: Path) -> Report:
    """Writes report.json, and beside it report/: the page and the files below; a folder a search.

    index.html  summary.json  runs.parquet  runs.csv  confusion.parquet

    Raises: ConfigError when `results` holds no plan; RaykdError naming the file when a run's file is corrupt.
    Nothing is written then. Unfinished runs are no error: the report names them.
    """
    searches = summaries_of_searches(results)
    summaries = tuple(summarize(family, cautions_of(searches, family)) for family in collect(results))
    runs = files.runs_table(summaries)
    page = results / "report" / "index.html"
    contents = {
        results / "report.json": files.report_json(summaries),
        page.with_name("summary.json"): files.summary_json(summaries),
        page.with_name("confusion.parquet"): files.parquet_bytes(files.confusion_table(summaries)),
        page.with_name("runs.parquet"): files.parquet_bytes(runs),
        page.with_name("runs.csv"): files.csv_bytes(runs),
        page: render_page(summaries, searches),
    }
    for search in searches:
        contents |= files_of(search)
    for path, content in contents.items():
        write_bytes(path, content)
    return Report(summaries, page, tuple(contents), searches)


def cautions_of(searches: Sequence[SearchSummary], family: Family) -> tuple[str, ...]:
    """That a setting of the family's distilled students was picked with the seeds that its gain is about."""
    return tuple(
        f"the {name} setting was picked among {len(confirmation.candidates)} by validation of these same seeds "
        f"(search {search.name}), which the gain's interval does not account for"
        for search in searches
        if search.family == family.name and (confirmation := search.confirmation) is not None
        if len(confirmation.candidates) > 1
        for name, runs in taught(family).items()
        if {run.name for run in runs} & {*confirmation.runs_of_winner}
    )
