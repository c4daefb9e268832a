"""Results folders side by side: a table for a terminal or a paper, lines on the configurations, and CSV."""

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Any

from rich.text import Text

from raykd.errors import flattened
from raykd.report import wording
from raykd.report.render.paper_csv import gain_columns
from raykd.report.render.paper_tables import TOP1, Cell, PaperTable, number
from raykd.report.render.plain_text import plain_table, plain_text, wrapped
from raykd.report.stats.folders import FoldersRow, InFolder
from raykd.report.stats.significance import FEWEST_SEEDS

HEADINGS = ("runs", "folder", "top-1 (%)", "n", "difference [95 %]", "p", "pairs")
COLUMNS = (
    *("family", "stage", "method", "folder", "reference", "top1_mean", "top1_std", "num_runs", "num_planned"),
    *("gain_mean", "gain_std", "gain_low", "gain_high", "num_pairs", "p", "p_holm"),
)


def folders_table(rows: Sequence[FoldersRow]) -> PaperTable:
    """Return the table, with notes on its numbers and on what the configurations differ in."""
    return PaperTable(
        "folders",
        "Test accuracy in several results folders",
        HEADINGS,
        tuple(_cells(row, entry) for row in rows for entry in row.entries),
        (*_notes(rows), *(f"{wording.capital(line)}." for line in folder_lines(rows))),
    )


def folders_text(rows: Sequence[FoldersRow]) -> str:
    """Return the table as aligned text, then one line for each fact. The text ends with a line break."""
    table = plain_table(names=HEADINGS[:2], numbers=HEADINGS[2:])
    for row in rows:
        for entry in row.entries:
            table.add_row(*(Text(cell.text) for cell in _cells(row, entry)))
    return plain_text([table, *wrapped(_notes(rows)), "", *folder_lines(rows)])


def folders_csv(rows: Sequence[FoldersRow]) -> str:
    """Return CSV with all digits: a row for each row of the table. reference: the folder that is subtracted."""
    output = io.StringIO()
    writer = csv.DictWriter(output, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerows(_csv_row(row, entry) for entry in row.entries)
    return output.getvalue()


def folder_lines(rows: Sequence[FoldersRow]) -> list[str]:
    """Return a line for each fact about a row: missing results, no difference, the fields that differ."""
    return [line for row in rows for entry in row.entries for line in _lines_of(row, entry)]


def _lines_of(row: FoldersRow, entry: InFolder) -> Iterator[str]:
    reference = row.entries[0]
    start = f"{flattened(row.name)} in {flattened(entry.folder)}"
    num_missing = entry.num_planned - (entry.top1.num_runs if entry.top1 else 0)
    if num_missing:
        yield f"{start}: planned runs without a result: {num_missing} of {entry.num_planned}"
    if entry is reference:
        return
    if entry.are_same:
        yield f"{start}: the same runs as in {flattened(reference.folder)}"
        return
    if entry.why_no_difference:
        yield f"{start}: no difference: {entry.why_no_difference}"
    if entry.changes:
        changes = (f"{name} = {here}, not {before}" for name, (before, here) in entry.changes.items())
        yield f"{start}: {flattened('; '.join(changes))}"
    if entry.has_other_teacher and entry.difference is not None:
        yield f"{start}: its students have another teacher, and the interval does not cover other teachers"


def _notes(rows: Sequence[FoldersRow]) -> list[str]:
    """Return sentences on the columns."""
    gains = [entry.difference for row in rows for entry in row.entries if entry.difference]
    corrected = max((gain.num_methods for gain in gains), default=1)
    p = "paired t-test" if corrected == 1 else f"paired t-test, corrected by Holm for the {corrected} differences"
    notes = [
        f"{TOP1} Difference: to the first folder with these runs, in percentage points, over pairs of runs of one "
        f"seed, with Student's 95 % interval. p: {p}.",
    ]
    if any(len(gain.pairs) < FEWEST_SEEDS for gain in gains):
        notes.append(f"Fewer than {FEWEST_SEEDS} pairs allow no verdict.")
    return notes


def _cells(row: FoldersRow, entry: InFolder) -> tuple[Cell, ...]:
    gain, has_no_gain = entry.difference, entry is row.entries[0] or entry.are_same
    p = None if gain is None else gain.t_test_p if gain.num_methods == 1 else gain.p_holm
    return (
        Cell(flattened(row.name)),
        Cell(flattened(entry.folder)),
        number(wording.mean_std(entry.top1)),
        Cell(str(entry.top1.num_runs if entry.top1 else 0)),
        Cell("") if has_no_gain else number(wording.gain(gain)),
        Cell("") if has_no_gain else number(wording.p_value(p)),
        Cell("") if has_no_gain else Cell(str(len(gain.pairs) if gain else 0)),
    )


def _csv_row(row: FoldersRow, entry: InFolder) -> dict[str, Any]:
    reference, gain = row.entries[0], entry.difference
    names = {"family": row.family, "stage": row.stage, "method": row.method, "folder": entry.folder}
    counts = {"num_runs": entry.top1.num_runs if entry.top1 else 0, "num_planned": entry.num_planned}
    top1 = {"top1_mean": entry.top1.mean, "top1_std": entry.top1.std} if entry.top1 else {}
    tests = {"p": gain.t_test_p, "p_holm": gain.p_holm} if gain else {}
    subtracted = {} if entry is reference else {"reference": reference.folder}
    return names | subtracted | top1 | counts | gain_columns(gain) | tests
