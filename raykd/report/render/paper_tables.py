"""The tables for a paper: the results of all families, methods over families, and the methods of each family.

The numbers and their rounding are those of the page. latex.py and markdown.py write these tables, paper_csv.py the same
numbers with all digits.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from raykd.errors import flattened
from raykd.report import wording
from raykd.report.render.families_columns import last_columns, rows_of
from raykd.report.render.families_lines import lines_with_bold
from raykd.report.render.lead import subject
from raykd.report.stats.comparison import Comparison, MethodSummary
from raykd.report.stats.over_families import FamiliesComparison, compare_families
from raykd.report.stats.paired_interval import PairedGain, Spread
from raykd.report.stats.ranking import Ranking
from raykd.report.stats.significance import FEWEST_SEEDS, LEVEL, p_equals
from raykd.report.stats.summary import FamilySummary
from raykd.spec.stages import STAGES

DAGGER = "\N{DAGGER}"
SPREAD = " \N{PLUS-MINUS SIGN} "  # between mean and standard deviation
TOP1 = f"Test top-1 in percent: mean{SPREAD}standard deviation over seeds."


@dataclass(frozen=True)
class Cell:
    """A cell's text on one line. is_best: its mean is printed in bold. is_tied: it is marked with a dagger."""

    text: str
    is_best: bool = False
    is_tied: bool = False

    @property
    def mean_and_rest(self) -> tuple[str, str]:
        """The text before the standard deviation, and the rest, which begins with the plus-minus sign or is empty."""
        mean, sign, std = self.text.partition(SPREAD)
        return mean, sign + std


@dataclass(frozen=True)
class PaperTable:
    """A table whose first column holds names and whose other columns hold numbers.

    key: letters, digits and hyphens that identify it in the document. num_references: number of rows
    above those of the compared methods. may_be_split: whether the columns may be divided among several tables.
    """

    key: str
    caption: str
    headings: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...]
    num_references: int = 0
    may_be_split: bool = False


def paper_tables(summaries: Sequence[FamilySummary]) -> tuple[PaperTable, ...]:
    """Return the table of all families, that of methods over families, and one of methods for each family.

    The last two only where methods are compared, by at least two families or by this one.
    """
    over_families = compare_families(summaries)
    compared = [
        _methods_table(number, summary, summary.comparison)
        for number, summary in enumerate(summaries)
        if summary.comparison is not None
    ]
    return (_results_table(summaries), *([_families_table(over_families)] if over_families else ()), *compared)


def _results_table(summaries: Sequence[FamilySummary]) -> PaperTable:
    return PaperTable(
        "results",
        "Test accuracy of teachers, baselines and distilled students",
        ("family", *STAGES, "gain [95 %]", "n"),
        tuple(tuple(_result_cells(summary)) for summary in summaries),
        (
            f"{TOP1} Gain: distilled minus baseline of the same seed, in percentage points, with Student's 95 % "
            "interval of the mean. n: evaluated runs of teacher, baseline and distilled student.",
            *(note for summary in summaries for note in _notes_on(summary)),
        ),
    )


def _result_cells(summary: FamilySummary) -> Iterator[Cell]:
    """Yield the cells of a family's row."""
    yield Cell(flattened(summary.name))
    yield from (number(wording.mean_std(stage.top1)) for stage in summary.stages)
    yield number(wording.gain(summary.gain))
    yield Cell(" / ".join(str(_num_runs(stage.top1)) for stage in summary.stages))


def _notes_on(summary: FamilySummary) -> Iterator[str]:
    """Yield sentences on the compared method in a family's row, and for each reason why the row is incomplete."""
    runs, name = summary.family.all_runs, flattened(summary.name)
    if summary.gain is not None and summary.gain.num_methods > 1:
        yield (
            f"The distilled student of {name} is that of {flattened(summary.gain.name)}, one of "
            f"{summary.gain.num_methods} compared methods: {_corrected(summary.gain)}."
        )
    num_missing = sum(run.state != "evaluated" for run in runs)
    if num_missing:
        yield f"{name} is incomplete: planned runs without a result: {num_missing} of {len(runs)}."
    if summary.gain is None:
        yield f"Gain of {name}: {summary.why_no_gain}."


def _families_table(comparison: FamiliesComparison) -> PaperTable:
    columns = last_columns(comparison)
    rows = [
        (
            Cell(flattened(name)),
            *(
                number(wording.mean_std(spread), name in comparison.best.get(family, ()))
                for family, spread in top1.items()
            ),
            *(number(column.cells[name]) for column in columns),
        )
        for name, top1 in rows_of(comparison)
    ]
    return PaperTable(
        "families",
        f"Methods of distillation compared over {len(comparison.families)} families",
        ("method", *map(flattened, comparison.families), *(flattened(column.heading) for column in columns)),
        tuple(rows),
        (
            f"{TOP1} Gain: mean over families, in percentage points.",
            *(f"{wording.capital(wording.minus(line))}." for line in lines_with_bold(comparison)),
        ),
        num_references=2,
        may_be_split=True,
    )


def _methods_table(number: int, summary: FamilySummary, comparison: Comparison) -> PaperTable:
    published = ("published",) if comparison.has_published else ()
    references = [_reference_cells(name, summary.stage(name).top1, bool(published)) for name in ("teacher", "baseline")]
    rows = [tuple(_method_cells(method, comparison.ranking, bool(published))) for method in comparison.methods]
    return PaperTable(
        f"methods-{number}",
        f"Methods of distillation compared: {subject(summary)}",
        ("method", "top-1 (%)", *published, "gain [95 %]", "Holm p", "rank", "n"),
        (*references, *rows),
        tuple(_notes_under(comparison)),
        len(references),
    )


def _reference_cells(name: str, top1: Spread | None, has_published: bool) -> tuple[Cell, ...]:
    """Return the row of the teacher or of the baseline, which has neither gain nor rank."""
    empty = [Cell("")] * (4 if has_published else 3)
    return (Cell(name), number(wording.mean_std(top1)), *empty, Cell(str(_num_runs(top1))))


def _method_cells(method: MethodSummary, ranking: Ranking | None, has_published: bool) -> Iterator[Cell]:
    yield Cell(flattened(method.name))
    is_best = ranking is not None and method.name == ranking.best
    is_tied = ranking is not None and method.name in ranking.tied_with_best
    yield number(wording.mean_std(method.top1), is_best, is_tied)
    if has_published:
        yield number("-" if method.published is None else f"{method.published:.2f}")
    yield number(wording.gain(method.gain))
    yield number(wording.p_value(method.p_holm))
    yield Cell(method.rank or "\N{EN DASH}")
    yield Cell(str(_num_runs(method.top1)))


def _notes_under(comparison: Comparison) -> Iterator[str]:
    """Yield sentences on the columns and marks of a table of methods."""
    yield (
        f"{TOP1} Gain: over the baseline of the same seed, in percentage points, with Student's 95 % interval for "
        f"this method alone. Holm p: paired t-test, corrected for all {len(comparison.methods)} methods. n: evaluated "
        "runs."
    )
    yield from about_marks(comparison.ranking)


def about_marks(ranking: Ranking | None) -> Iterator[str]:
    """Yield sentences on what is bold in a table of methods, and what the dagger marks; nothing without a ranking."""
    if ranking is None:
        return
    best, seeds = flattened(ranking.best), ", ".join(map(str, ranking.seeds))
    noun = "seed" if len(ranking.seeds) == 1 else "seeds"
    yield f"Bold: the best mean over {noun} {seeds}, which every ranked method has."
    if ranking.tied_with_best:
        reason = (
            f"because fewer than {FEWEST_SEEDS} seeds allow no verdict"
            if len(ranking.seeds) < FEWEST_SEEDS
            else f"by paired t-tests of all pairs of methods, corrected by Holm (p at least {LEVEL:g})"
        )
        yield f"{DAGGER} Not distinguishable from {best}, {reason}."


def _corrected(gain: PairedGain) -> str:
    """Return the p-value of a compared method's gain, corrected for all methods."""
    return "no test" if gain.p_holm is None else p_equals("Holm p", gain.p_holm)


def number(text: str, is_best: bool = False, is_tied: bool = False) -> Cell:
    """Return a cell with a minus sign before a negative number, and a dash for a missing one."""
    return Cell(wording.dash(wording.minus(text)), is_best, is_tied)


def _num_runs(spread: Spread | None) -> int:
    return spread.num_runs if spread else 0
