r"""Tables as LaTeX, in the style of the package booktabs, which is the only one that they need.

A table has its caption and its label, as those of pandas. It is a table*, which spans both columns of a paper with two:
one column is too narrow for a gain with its interval. In a paper with one column, a table* is a table.

A table with more columns than fit becomes several with the same rows, as in the papers. A heading that is wider than
the numbers below it is broken into several rows.

pdfLaTeX typesets the text of any name: special characters are escaped, accents and Greek letters become commands. A
letter without a command, such as a Chinese one, becomes its code point, and a comment above the tables shows it.
"""

import math
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import replace

from raykd.report.render.paper_tables import DAGGER, Cell, PaperTable

MAX_NUMBERS = 5  # columns of numbers in a part of a wide table: '76.32 ± 0.15' beside a long name takes 5.5 inches
MAX_HEADING = 12  # letters in a line of a heading, as many as in such a number
_HEAD = r"% These tables need \usepackage{booktabs}."
_ESCAPED = {
    **{letter: f"\\{letter}" for letter in "{}&#%_"},
    "$": r"$\$$",  # in text it would need the fonts of another package
    "\\": r"$\backslash$",
    "^": r"\^{}",
    "~": r"\~{}",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    "`": "{`}",  # it would join with an exclamation or question mark before it
    '"': "''",
    "\N{NO-BREAK SPACE}": "~",
    "\N{EN DASH}": r"\textendash{}",
    "\N{EM DASH}": r"\textemdash{}",
    "\N{MINUS SIGN}": "$-$",
    "\N{PLUS-MINUS SIGN}": r"$\pm$",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "\N{MICRO SIGN}": r"$\mu$",
    "\N{RIGHTWARDS ARROW}": r"$\to$",
    DAGGER: r"$^\dagger$",
    "\N{LATIN SMALL LETTER SHARP S}": r"\ss{}",
    "\N{LATIN SMALL LETTER AE}": r"\ae{}",
    "\N{LATIN CAPITAL LETTER AE}": r"\AE{}",
    "\N{LATIN SMALL LIGATURE OE}": r"\oe{}",
    "\N{LATIN CAPITAL LIGATURE OE}": r"\OE{}",
    "\N{LATIN SMALL LETTER O WITH STROKE}": r"\o{}",
    "\N{LATIN CAPITAL LETTER O WITH STROKE}": r"\O{}",
    "\N{LATIN SMALL LETTER L WITH STROKE}": r"\l{}",
    "\N{LATIN CAPITAL LETTER L WITH STROKE}": r"\L{}",
    "\N{LATIN SMALL LETTER DOTLESS I}": r"\i{}",
}
_ACCENTS = {
    "\N{COMBINING GRAVE ACCENT}": "`",
    "\N{COMBINING ACUTE ACCENT}": "'",
    "\N{COMBINING CIRCUMFLEX ACCENT}": "^",
    "\N{COMBINING TILDE}": "~",
    "\N{COMBINING DIAERESIS}": '"',
    "\N{COMBINING MACRON}": "=",
    "\N{COMBINING DOT ABOVE}": ".",
    "\N{COMBINING BREVE}": "u",
    "\N{COMBINING CARON}": "v",
    "\N{COMBINING DOUBLE ACUTE ACCENT}": "H",
    "\N{COMBINING CEDILLA}": "c",
    "\N{COMBINING DOT BELOW}": "d",
    "\N{COMBINING RING ABOVE}": "r",
}
_GREEK_LETTERS = "αβγδεζηθικλμνξπρστυφχψωΓΔΘΛΞΠΣΦΨΩ"
_GREEK_COMMANDS = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon phi chi psi "
    "omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega"
)
_GREEK = dict(zip(_GREEK_LETTERS, _GREEK_COMMANDS.split(), strict=True))


def escape(text: str) -> str:
    """Return printable `text` so that pdfLaTeX typesets it without further packages, in one line."""
    escaped = "".join(_escaped(letter) for letter in text).replace("--", "-{}-")  # two hyphens would become a dash
    # After the end of a row, a bracket would be its optional argument, and a star a variant of it.
    return f"{{{escaped[0]}}}{escaped[1:]}" if escaped.startswith(("[", "*")) else escaped


def latex_tables(tables: Sequence[PaperTable]) -> str:
    """Return a table environment for each table, or several for a wide one. The text ends with a line break."""
    tables = [part for table in tables for part in _parts(table)]
    texts = [text for table in tables for text in _texts_of(table)]
    replaced = sorted({letter for text in texts for letter in text if _escaped(letter) == _code_point(letter)})
    comments = [f"% U+{ord(letter):04X} stands for {letter}, which pdfLaTeX cannot typeset." for letter in replaced]
    return "\n".join([_HEAD, *comments, *(line for table in tables for line in ("", *_lines_of(table)))]) + "\n"


def _escaped(letter: str) -> str:
    if letter in _ESCAPED:
        return _ESCAPED[letter]
    if letter.isascii():
        return letter
    if letter in _GREEK:
        return f"$\\{_GREEK[letter]}$"
    base, *accents = unicodedata.normalize("NFD", letter)
    if base.isascii() and len(accents) == 1 and accents[0] in _ACCENTS:
        return f"\\{_ACCENTS[accents[0]]}{{{base}}}"
    return _code_point(letter)


def _code_point(letter: str) -> str:
    return f"\\texttt{{U+{ord(letter):04X}}}"


def _texts_of(table: PaperTable) -> list[str]:
    cells = [cell.text for row in table.rows for cell in row]
    return [table.caption, *table.headings, *cells, *table.notes]


def _parts(table: PaperTable) -> Iterator[PaperTable]:
    """Yield `table`, or tables with the same rows and a part of the columns each; the last one has the notes."""
    num_numbers = len(table.headings) - 1
    num_parts = math.ceil(num_numbers / MAX_NUMBERS)
    if num_parts == 1 or not table.may_be_split:
        yield table
        return
    width = math.ceil(num_numbers / num_parts)
    for part in range(num_parts):
        columns = slice(1 + part * width, 1 + (part + 1) * width)
        yield replace(
            table,
            key=table.key if part == 0 else f"{table.key}-{part + 1}",
            caption=f"{table.caption} ({part + 1} of {num_parts})",
            headings=(table.headings[0], *table.headings[columns]),
            rows=tuple((row[0], *row[columns]) for row in table.rows),
            notes=table.notes if part == num_parts - 1 else (),
        )


def _heading_rows(headings: Sequence[str]) -> list[str]:
    """Return the rows of the headings; one, unless a heading is long."""
    broken = [_broken(heading) for heading in headings]
    height = max(map(len, broken))
    lines = [[""] * (height - len(parts)) + parts for parts in broken]
    return [_row([escape(line) for line in row]) for row in zip(*lines, strict=True)]


def _broken(heading: str) -> list[str]:
    """Return the lines of a heading, which are broken after spaces, hyphens and underscores only."""
    lines = [""]
    for piece in re.findall(r"[^ _-]*[ _-]|[^ _-]+", heading):
        if lines[-1] and len((lines[-1] + piece).rstrip()) > MAX_HEADING:
            lines.append("")
        lines[-1] += piece
    return [line.rstrip() for line in lines]


def _lines_of(table: PaperTable) -> list[str]:
    columns = "l" + "r" * (len(table.headings) - 1)
    rows = [_row([_cell(cell) for cell in row]) for row in table.rows]
    references, compared = rows[: table.num_references], rows[table.num_references :]
    return [
        r"\begin{table*}",
        r"  \centering\small\setlength{\tabcolsep}{4pt}",
        rf"  \caption{{{escape(table.caption)}}}",
        rf"  \label{{tab:{table.key}}}",
        rf"  \begin{{tabular}}{{@{{}}{columns}@{{}}}}",
        r"    \toprule",
        *_heading_rows(table.headings),
        r"    \midrule",
        *([*references, r"    \midrule"] if references else []),
        *compared,
        r"    \bottomrule",
        r"  \end{tabular}",
        *_notes_of(table),
        r"\end{table*}",
    ]


def _notes_of(table: PaperTable) -> list[str]:
    if not table.notes:
        return []
    return [
        r"  \par\medskip",
        r"  \begin{minipage}{\linewidth}\footnotesize",
        *(f"    {escape(note)}" for note in table.notes),
        r"  \end{minipage}",
    ]


def _row(cells: Sequence[str]) -> str:
    return f"    {' & '.join(cells)} \\\\"


def _cell(cell: Cell) -> str:
    """Return a cell. The dagger takes no space, so that the numbers of a column stay aligned."""
    mean, rest = (escape(part) for part in cell.mean_and_rest)
    number = rf"\textbf{{{mean}}}{rest}" if cell.is_best else mean + rest
    return number + (rf"\rlap{{{escape(DAGGER)}}}" if cell.is_tied else "")
