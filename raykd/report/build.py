"""Writes report.json and the folder report/ from the run folders of an experiment."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from raykd.disk.atomic import write_bytes
from raykd.report.figures.saved import FigureFormat, figure_files
from raykd.report.read.collect import collect
from raykd.report.read.search_summary import summarize_searches
from raykd.report.render import files
from raykd.report.render.latex import latex_tables
from raykd.report.render.markdown import markdown_tables
from raykd.report.render.page import render_page
from raykd.report.render.paper_csv import csv_table
from raykd.report.render.paper_tables import paper_tables
from raykd.report.render.search_page import search_files
from raykd.report.report import Report
from raykd.report.stats.summary import summarize
from raykd.spec.stages import REPORT
from raykd.store.migration import require_migrated
from raykd.store.results_folder import DEFAULT_RESULTS

TableFormat = Literal["latex", "markdown", "csv"]


def build(results: Path, figure_formats: Sequence[FigureFormat] = ()) -> Report:
    """Write report.json, the files below in report/, and one folder in report/ for each search; return the report.

    index.html  summary.json  runs.parquet  runs.csv  confusion.parquet

    figure_formats: formats in which the figures are also written as files, see figures/saved.py.

    Raises what `load` raises, and then writes nothing.
    """
    report = load(results)
    runs = files.runs_table(report)
    contents = {
        results / "report.json": files.report_json(report),
        report.page.with_name("summary.json"): files.summary_json(report),
        report.page.with_name("confusion.parquet"): files.parquet_bytes(files.confusion_table(report)),
        report.page.with_name("runs.parquet"): files.parquet_bytes(runs),
        report.page.with_name("runs.csv"): files.csv_bytes(runs),
        report.page: render_page(report),
    }
    for search in report.searches:
        contents |= search_files(search, report.importances[search.full_name])
    if figure_formats:
        contents |= figure_files(report, figure_formats)
    for path, content in contents.items():
        write_bytes(path, content)
    return report


def load(results: str | Path = DEFAULT_RESULTS) -> Report:
    """Return the report on the runs and searches in `results`, and write nothing.

    Raises ConfigError if `results` has no plan, and DamagedFile for a damaged file of a run.
    Unfinished runs are no error: the report lists them as missing.
    """
    results = Path(results)
    require_migrated(results)
    searches = summarize_searches(results)
    summaries = tuple(summarize(family, searches) for family in collect(results))
    return Report(summaries, results / REPORT / "index.html", searches)


def tables_text(report: Report, table_format: TableFormat) -> str:
    """Return the tables for a paper: the results of all families, methods over families, and those of each family.

    The text ends with a line break. CSV has the same numbers with all digits in one table.
    """
    if table_format == "csv":
        return csv_table(report)
    render = latex_tables if table_format == "latex" else markdown_tables
    return render(paper_tables(report))
