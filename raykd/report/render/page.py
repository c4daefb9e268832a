"""The page: every number and figure of the report in one HTML file that needs no network and no script.

Of a search it has a line; the rest is on the search's own page, see search_page.py.
"""

from dataclasses import dataclass

from raykd.report import wording
from raykd.report.figures.axes import Drawing
from raykd.report.figures.comparison import draw_comparison
from raykd.report.figures.metrics import draw_measures
from raykd.report.figures.stages import draw_all
from raykd.report.figures.tradeoff import draw_tradeoffs
from raykd.report.read.provenance import OriginRow, SettingRow, origins_of, settings_of
from raykd.report.read.search_records import SearchSummary
from raykd.report.render import comparison_lines, search_wording
from raykd.report.render.metric_rows import (
    COSTS,
    COSTS_EXPLAINED,
    CostRow,
    MeasureRow,
    cost_rows,
    measure_rows,
    places_of,
)
from raykd.report.render.templates import template
from raykd.report.stats.summary import FamilySummary
from raykd.spec.stages import STAGES


@dataclass(frozen=True)
class Section:
    """A family's part of the page. `key` starts the ids in it: a family's name may hold any letters."""

    key: str
    summary: FamilySummary
    drawings: dict[str, Drawing | None]
    settings: tuple[SettingRow, ...]
    origins: tuple[OriginRow, ...]
    measures: tuple[MeasureRow, ...]
    measured: dict[str, Drawing]
    costs: tuple[CostRow, ...]
    places: tuple[str, ...]
    compared: Drawing | None


def render_page(summaries: tuple[FamilySummary, ...], searches: tuple[SearchSummary, ...] = ()) -> bytes:
    """index.html in UTF-8; the same bytes for the same run folders."""
    sections = [_section(f"family-{number}", summary) for number, summary in enumerate(summaries)]
    page = template("page.html.j2").render(
        sections=sections,
        searches=searches,
        stages=STAGES,
        wording=wording,
        said=search_wording,
        compared=comparison_lines,
        tradeoffs=draw_tradeoffs(summaries),
        cost_headings=COSTS,
        costs_explained=COSTS_EXPLAINED,
    )
    return page.encode()


def _section(key: str, summary: FamilySummary) -> Section:
    return Section(
        key,
        summary,
        draw_all(summary, key),
        settings_of(summary.family),
        origins_of(summary.family),
        measure_rows(summary),
        draw_measures(summary, key),
        cost_rows(summary),
        places_of(tuple(cost for stage in summary.stages for cost in stage.costs)),
        draw_comparison(summary.comparison, f"{key}-methods") if summary.comparison else None,
    )
