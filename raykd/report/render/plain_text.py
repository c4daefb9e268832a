"""Text of at most 100 columns for a terminal or a Slurm log: ASCII tables, and lines without color."""

import io
from collections.abc import Iterable, Iterator, Sequence
from textwrap import wrap

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from raykd.errors import flattened, one_line
from raykd.report import wording

WIDTH = 100  # columns


def plain_text(parts: Iterable[Table | str]) -> str:
    """Return tables of at most WIDTH columns, and lines unchanged, without control characters.

    The text ends with a line break.
    """
    output = io.StringIO()
    console = Console(file=output, width=WIDTH, color_system=None, force_terminal=False, legacy_windows=False)
    for part in parts:
        if isinstance(part, str):
            console.print(Text(part), soft_wrap=True)
        else:
            console.print(part)
    return "\n".join(one_line(line.rstrip()) for line in output.getvalue().splitlines()) + "\n"


def plain_table(title: str = "", names: Sequence[str] = (), numbers: Sequence[str] = ()) -> Table:
    """Return a table with left-aligned columns `names`, folded where they are too wide, and right-aligned `numbers`."""
    table = Table(title=Text(title) if title else None, title_justify="left", title_style="", box=box.ASCII2)
    for heading in names:
        table.add_column(heading, overflow="fold")
    for heading in numbers:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def wrapped(lines: Sequence[str]) -> Iterator[str]:
    """Wrap `lines` at WIDTH without breaks between a number and its sign."""
    for line in lines:
        broken = wrap(wording.unbroken(flattened(line, 1000)), WIDTH, subsequent_indent="  ", break_on_hyphens=False)
        yield from (part.replace("\N{NO-BREAK SPACE}", " ") for part in broken)
