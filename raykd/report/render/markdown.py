"""Tables as Markdown, in the dialect of GitHub."""

import re
from collections.abc import Sequence

from raykd.report.render.paper_tables import DAGGER, Cell, PaperTable

# Letters that GitHub may read as markup, and the first letter of an entity such as &lt;.
_MARKUP = re.compile(r"[\\`*_{}\[\]<>|~$#!&]")


def escape(text: str) -> str:
    """Return `text` so that GitHub shows it literally, also in a cell of a table."""
    return _MARKUP.sub(r"\\\g<0>", text)


def markdown_tables(tables: Sequence[PaperTable]) -> str:
    """Return each table below its caption. The text ends with a line break."""
    return "\n".join(line for table in tables for line in _lines_of(table))


def _lines_of(table: PaperTable) -> list[str]:
    headings = [escape(heading) for heading in table.headings]
    alignments = [":---", *["---:"] * (len(headings) - 1)]
    rows = [[_cell(cell) for cell in row] for row in table.rows]
    return [
        f"**{escape(table.caption)}**",
        "",
        *(f"| {' | '.join(cells)} |" for cells in (headings, alignments, *rows)),
        *(line for note in table.notes for line in ("", escape(note))),
        "",
    ]


def _cell(cell: Cell) -> str:
    mean, rest = (escape(part) for part in cell.mean_and_rest)
    number = f"**{mean}**{rest}" if cell.is_best else mean + rest
    return f"{number} {DAGGER}" if cell.is_tied else number
