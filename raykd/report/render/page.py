"""The report's page: one HTML file with all numbers and figures that requires neither a network nor scripts.

A search has one line here and its own page, see search_page.py.
"""

from dataclasses import dataclass

from raykd.report import search_wording, wording
from raykd.report.figures.axes import Drawing
from raykd.report.figures.comparison import draw_comparison
from raykd.report.figures.metrics import draw_metrics
from raykd.report.figures.stages import draw_stages
from raykd.report.figures.tradeoff import draw_tradeoffs
from raykd.report.read.provenance import OriginRow, SettingRow, origins_of, settings_of
from raykd.report.read.search_records import SearchSummary
from raykd.report.render.comparison_lines import lines_under
from raykd.report.render.metric_rows import (
    COSTS,
    COSTS_EXPLAINED,
    CostRow,
    MetricRow,
    cost_rows,
    devices_of,
    metric_rows,
)
from raykd.report.render.templates import template
from raykd.report.stats.confirmation import winner_gains
from raykd.report.stats.summary import FamilySummary
from raykd.spec.stages import STAGES


@dataclass(frozen=True)
class Section:
    """A family's part of the page. key: start of its ids, since a family's name may contain any characters."""

    key: str
    summary: FamilySummary
    stage_figures: dict[str, Drawing | None]
    settings: tuple[SettingRow, ...]
    origins: tuple[OriginRow, ...]
    metrics: tuple[MetricRow, ...]
    metric_figures: dict[str, Drawing]
    costs: tuple[CostRow, ...]
    devices: tuple[str, ...]
    comparison_figure: Drawing | None


def render_page(summaries: tuple[FamilySummary, ...], searches: tuple[SearchSummary, ...] = ()) -> bytes:
    """Return index.html in UTF-8: the same bytes for the same run folders."""
    sections = [_section(f"family-{number}", summary) for number, summary in enumerate(summaries)]
    page = template("page.html.j2").render(
        sections=sections,
        searches=searches,
        stages=STAGES,
        wording=wording,
        search_wording=search_wording,
        winner_gains=winner_gains,
        lines_under=lines_under,
        tradeoffs=draw_tradeoffs(summaries),
        cost_headings=COSTS,
        costs_explained=COSTS_EXPLAINED,
    )
    return page.encode()


def _section(key: str, summary: FamilySummary) -> Section:
    return Section(
        key,
        summary,
        draw_stages(summary, key),
        settings_of(summary.family),
        origins_of(summary.family),
        metric_rows(summary),
        draw_metrics(summary, key),
        cost_rows(summary),
        devices_of(summary),
        draw_comparison(summary.comparison, f"{key}-methods") if summary.comparison else None,
    )
