"""The figures as files for a paper, next to the page that shows them: PDF with embedded fonts, or SVG.

<results>/report/figures/<family>-<figure>.<format>
<results>/report/<family>-<search>/figures/search-<figure>.<format>

They are as wide as a column of a paper, with labels of 8 points, and have the colors of the light theme on a
transparent background. The same run folders make the same bytes.
"""

import io
import itertools
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from warnings import catch_warnings, simplefilter, warn_explicit

import numpy as np
from matplotlib import rc_context
from matplotlib.collections import Collection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from raykd.errors import one_line
from raykd.report.content import ReportContent
from raykd.report.figures.axes import Drawing
from raykd.report.figures.comparison import draw_comparison
from raykd.report.figures.metrics import draw_metrics
from raykd.report.figures.search import draw_search
from raykd.report.figures.stages import draw_stages
from raykd.report.figures.svg import NO_SVG_METADATA, figure_style
from raykd.report.figures.tradeoff import draw_tradeoffs
from raykd.report.stats.summary import FamilySummary

FigureFormat = Literal["pdf", "svg"]
# Glyphs are embedded as TrueType, which publishers require, or drawn as outlines.
FONTS: dict[Any, Any] = {"pdf.fonttype": 42, "svg.fonttype": "path"}
LINE_SCALE = 0.75  # of lines and markers, which would be heavy in a smaller figure
# No dates, which would change the bytes.
METADATA: dict[FigureFormat, Any] = {
    "pdf": dict.fromkeys(("CreationDate", "Creator", "Producer")),
    "svg": NO_SVG_METADATA,
}

_MISSING_GLYPH = re.compile(r"Glyph (\d+) .*missing from font")
_MAX_LETTERS = 10  # in the line about those that the font lacks
_log = logging.getLogger(__name__)


def figure_files(report: ReportContent, formats: Sequence[FigureFormat]) -> dict[Path, bytes]:
    """Return the content of each file: every figure of the page and of the searches' pages in each format."""
    drawings = {
        report.page.parent: [drawing for summary in report.summaries for drawing in _drawings_of(summary)],
        **{
            search.page.parent: [*draw_search(search, report.importances[search.full_name], "column").values()]
            for search in report.searches
        },
    }
    drawings[report.page.parent] += draw_tradeoffs(report.summaries, "column").values()
    for drawing in filter(None, itertools.chain(*drawings.values())):
        _scale_lines(drawing.figure)
    with _missing_letters_in_one_line():
        return {
            folder / "figures" / f"{drawing.key}.{figure_format}": _content(drawing.figure, figure_format)
            for folder, shown in drawings.items()
            for drawing in shown
            if drawing is not None
            for figure_format in dict.fromkeys(formats)
        }


def _drawings_of(summary: FamilySummary) -> Iterator[Drawing | None]:
    """Yield the figures of a family, with keys that begin with its name."""
    yield from draw_stages(summary, summary.name, "column").values()
    yield from draw_metrics(summary, summary.name, "column").values()
    if summary.comparison is not None:
        yield draw_comparison(summary.comparison, f"{summary.name}-methods", "column")


def _scale_lines(figure: Figure) -> None:
    for line in figure.findobj(Line2D):
        line.set_linewidth(LINE_SCALE * line.get_linewidth())
        line.set_markersize(LINE_SCALE * line.get_markersize())
        line.set_markeredgewidth(LINE_SCALE * line.get_markeredgewidth())
    for collection in figure.findobj(Collection):
        collection.set_linewidth([LINE_SCALE * float(width) for width in np.atleast_1d(collection.get_linewidth())])


@contextmanager
def _missing_letters_in_one_line() -> Iterator[None]:
    """Log one line for all letters that the font lacks, in place of matplotlib's warning for each of them."""
    with catch_warnings(record=True) as caught:
        simplefilter("always")
        yield
    letters: dict[str, None] = {}
    for warning in caught:
        if match := _MISSING_GLYPH.match(str(warning.message)):
            letters[chr(int(match[1]))] = None
        else:
            warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    if letters:
        shown = " ".join(sorted(letters)[:_MAX_LETTERS]) + (" ..." if len(letters) > _MAX_LETTERS else "")
        _log.warning("the saved figures have boxes for letters that DejaVu Sans lacks: %s", one_line(shown))


def _content(figure: Figure, figure_format: FigureFormat) -> bytes:
    buffer = io.BytesIO()
    with figure_style("column"), rc_context(FONTS):
        figure.savefig(buffer, format=figure_format, transparent=True, metadata=METADATA[figure_format])
    return buffer.getvalue()
