"""The report's page: one HTML file with all numbers and figures that opens offline; a script sorts and labels tables.

A search has one line here and its own page, see search_page.py.
"""

from typing import Any

from raykd.errors import flattened
from raykd.report import search_wording, wording
from raykd.report.content import ReportContent
from raykd.report.figures.axes import Drawing
from raykd.report.figures.comparison import draw_comparison
from raykd.report.figures.metrics import draw_metrics
from raykd.report.figures.stages import draw_stages
from raykd.report.figures.tradeoff import draw_tradeoffs
from raykd.report.read.page_origin import page_origin
from raykd.report.read.provenance import configurations_of, origins_of
from raykd.report.render import templates
from raykd.report.render.comparison_lines import about_tuning, highest_mean, lines_under
from raykd.report.render.families_columns import last_columns, rows_of
from raykd.report.render.families_lines import lines_with_bold
from raykd.report.render.lead import lead_sentences
from raykd.report.render.metric_rows import (
    COST_COLUMNS,
    COST_EXPLANATION,
    cost_rows,
    metric_notes,
    metric_rows,
    numbered_devices,
)
from raykd.report.render.paper_tables import DAGGER, about_marks
from raykd.report.render.winners_command import winners_commands
from raykd.report.stats.confirmation import gain_over_default
from raykd.report.stats.over_families import FamiliesComparison
from raykd.report.stats.summary import FamilySummary
from raykd.spec.stages import STAGES


def render_page(report: ReportContent) -> bytes:
    """Return index.html in UTF-8: the same bytes for the same run folders."""
    return templates.page(
        "page.html.j2",
        sections=[_section(f"family-{number}", summary) for number, summary in enumerate(report.summaries)],
        searches=report.searches,
        winners_commands=winners_commands(report.searches),
        over_families=_over_families(report.over_families) if report.over_families else None,
        origin=page_origin([summary.family for summary in report.summaries]),
        stages=STAGES,
        wording=wording,
        search_wording=search_wording,
        gain_over_default=gain_over_default,
        lines_under=lines_under,
        highest_mean=highest_mean,
        about_marks=about_marks,
        about_tuning=about_tuning,
        dagger=DAGGER,
        tradeoffs=draw_tradeoffs(report.summaries),
        cost_headings=COST_COLUMNS,
        cost_explanation=COST_EXPLANATION,
    )


def _over_families(comparison: FamiliesComparison) -> dict[str, Any]:
    """Return the section on methods over families."""
    return {
        "comparison": comparison,
        "rows": rows_of(comparison),
        "columns": last_columns(comparison),
        "lines": lines_with_bold(comparison),
    }


def _comparison_figures(summary: FamilySummary, key: str) -> dict[str, Drawing]:
    """Return the figure of the compared methods by its class on the page: for wide windows, and for others."""
    if summary.comparison is None:
        return {}
    wide = draw_comparison(summary.comparison, f"{key}-methods-wide", "wide")
    narrow = draw_comparison(summary.comparison, f"{key}-methods")
    return {"on-wide": wide, "on-narrow": narrow} if wide and narrow else {}


def _section(key: str, summary: FamilySummary) -> dict[str, Any]:
    """Return a family's part of the page. key: start of its ids, since a family's name may contain any characters."""
    return {
        "key": key,
        "summary": summary,
        "stage_figures": draw_stages(summary, key),
        "configurations": configurations_of(summary.family),
        "origins": origins_of(summary.family),
        "lead": lead_sentences(summary),
        "metrics": metric_rows(summary),
        "metric_notes": metric_notes(summary),
        "metric_figures": {_heading(name, summary): drawing for name, drawing in draw_metrics(summary, key).items()},
        "costs": cost_rows(summary),
        "devices": numbered_devices(summary),
        "comparison_figures": _comparison_figures(summary, key),
    }


def _heading(name: str, summary: FamilySummary) -> str:
    """Return a figure's heading. That of the confusion matrix has the stage and the method whose matrix it shows."""
    if not name.startswith("Confusion"):
        return name
    stage = next(stage for stage in reversed(summary.stages) if stage.confusion)
    method = f" with {flattened(stage.method)}" if stage.method and stage.stage == "distilled" else ""
    return f"Confusion matrix: {stage.stage}{method}"
