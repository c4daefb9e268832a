"""The text in a table of methods over families, the same on the page, on the terminal and in the tables for a paper.

'-' stands for a number that is not known, '' for one that cannot exist, such as the baseline's gain over itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from raykd.report import wording
from raykd.report.stats.over_families import BASELINE, FamiliesComparison
from raykd.report.stats.paired_interval import Spread

TEACHER = "teacher"


@dataclass(frozen=True)
class Column:
    """A column after those of the families. cells: text by the name of the row."""

    heading: str
    cells: Mapping[str, str]


def last_columns(comparison: FamiliesComparison) -> list[Column]:
    """Return the mean gains, their p-values if these can be below 0.05, and mean ranks; [] while no family counts."""
    columns = []
    for reference, gains in comparison.references().items():
        means = {name: wording.signed(gain.spread.mean) for name, gain in gains.items()}
        columns.append(Column(f"gain over {reference}", _completed(comparison, means, reference)))
        if comparison.has_tests:
            p_values = {name: wording.p_value(gain.p_holm) for name, gain in gains.items()}
            columns.append(Column("Holm p", _completed(comparison, p_values, reference)))
    ranks = {row.name: f"{row.mean_rank:.2f}" for row in comparison.rows if row.mean_rank is not None}
    return [*columns, Column("mean rank", _completed(comparison, ranks, TEACHER))] if ranks else []


def _completed(comparison: FamiliesComparison, cells: Mapping[str, str], reference: str) -> dict[str, str]:
    """Return a cell for every row. reference: the row to which the numbers refer."""
    others = {row.name: "-" for row in comparison.rows if row.name not in (BASELINE, reference)}
    return {TEACHER: "", BASELINE: "", reference: "", **others, **cells}


def rows_of(comparison: FamiliesComparison) -> list[tuple[str, Mapping[str, Spread | None]]]:
    """Return the name and the top-1 by family of each row: the teacher, the baseline, then the methods."""
    return [(TEACHER, comparison.teachers), *((row.name, row.top1) for row in comparison.rows)]
