"""The page: every number and figure of the report in one HTML file that needs no network and no script.

The template escapes whatever comes from a run's folder (autoescape), undefined names are errors, and the
page's own content policy forbids scripts and loading, should a name still get through.
"""

from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from raykd.report import wording
from raykd.report.plots import Drawing, draw_all
from raykd.report.provenance import OriginRow, SettingRow, origins_of, settings_of
from raykd.report.summary import FamilySummary
from raykd.stages import STAGES


@dataclass(frozen=True)
class Section:
    """A family's part of the page. `key` starts the ids in it: a family's name may hold any letters."""

    key: str
    summary: FamilySummary
    drawings: dict[str, Drawing | None]
    settings: tuple[SettingRow, ...]
    origins: tuple[OriginRow, ...]
    measures: tuple[str, ...]


def render_page(summaries: tuple[FamilySummary, ...]) -> bytes:
    """index.html in UTF-8; the same bytes for the same run folders."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(minus=_minus, dash=_dash, svg=Markup)
    template = environment.get_template("page.html.j2")
    sections = [_section(f"family-{number}", summary) for number, summary in enumerate(summaries)]
    return template.render(sections=sections, stages=STAGES, wording=wording).encode()


def _section(key: str, summary: FamilySummary) -> Section:
    return Section(
        key,
        summary,
        draw_all(summary, key),
        settings_of(summary.family),
        origins_of(summary.family),
        tuple(dict.fromkeys(name for stage in summary.stages for name in stage.measures)),
    )


def _minus(text: str) -> str:
    """The typographic minus, which is as wide as the plus."""
    return text.replace("-", "\N{MINUS SIGN}")


def _dash(text: str) -> str:
    """The typographic dash for a number that is not there."""
    return "\N{EN DASH}" if text == "-" else text
