r"""Tables as LaTeX, in the style of the package booktabs, which is the only one that they need.

A table has its caption and its label, as those of pandas. It is a table*, which spans both columns of a paper with two:
one column is too narrow for a gain with its interval. In a paper with one column, a table* is a table.

pdfLaTeX typesets the text of any name: special characters are escaped, accents and Greek letters become commands. A
letter without a command, such as a Chinese one, becomes its code point, and a comment above the tables shows it.
"""

import unicodedata
from collections.abc import Sequence

from raykd.report.render.paper_tables import DAGGER, Cell, PaperTable

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
    """Return a table environment for each table. The text ends with a line break."""
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
        _row([escape(heading) for heading in table.headings]),
        r"    \midrule",
        *([*references, r"    \midrule"] if references else []),
        *compared,
        r"    \bottomrule",
        r"  \end{tabular}",
        r"  \par\medskip",
        r"  \begin{minipage}{\linewidth}\footnotesize",
        *(f"    {escape(note)}" for note in table.notes),
        r"  \end{minipage}",
        r"\end{table*}",
    ]


def _row(cells: Sequence[str]) -> str:
    return f"    {' & '.join(cells)} \\\\"


def _cell(cell: Cell) -> str:
    """Return a cell. The dagger takes no space, so that the numbers of a column stay aligned."""
    mean, rest = (escape(part) for part in cell.mean_and_rest)
    number = rf"\textbf{{{mean}}}{rest}" if cell.is_best else mean + rest
    return number + (rf"\rlap{{{escape(DAGGER)}}}" if cell.is_tied else "")
