"""Tables and lines for the terminal: plain letters and lines of fixed width, as a Slurm log has no terminal."""

import io
from collections.abc import Iterable

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDTH = 100


def plain_table(title: str) -> Table:
    """An empty table under its title."""
    return Table(title=Text(title), title_justify="left", title_style="", box=box.ASCII2)


def plain_text(parts: Iterable[Table | str]) -> str:
    """Tables of at most WIDTH columns and lines as they are, one under the other. Ends with a line break."""
    output = io.StringIO()
    console = Console(file=output, width=WIDTH, color_system=None, force_terminal=False, legacy_windows=False)
    for part in parts:
        if isinstance(part, str):
            console.print(Text(part), soft_wrap=True)
        else:
            console.print(part)
    return "\n".join(line.rstrip() for line in output.getvalue().splitlines()) + "\n"
