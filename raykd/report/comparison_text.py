"""A comparison of methods for the terminal, or a Slurm log."""

from collections.abc import Iterator

from rich.table import Table
from rich.text import Text

from raykd.report import wording
from raykd.report.comparison import Comparison
from raykd.report.plain import plain_table
from raykd.report.records import one_line


def render_comparison(family: str, comparison: Comparison) -> Iterator[Table | str]:
    """A row a method, the best first, and what the ranks say."""
    table = plain_table(f"{one_line(family)}: methods")
    table.add_column("method", overflow="fold", min_width=22)
    for heading in ("rank", "test top1 (%)", "n", "gain [95 %]", "time", "memory"):
        table.add_column(heading, justify="right", no_wrap=True)
    for method in comparison.methods:
        table.add_row(
            Text(one_line(method.name)),
            method.rank or "-",
            wording.percent(method.top1),
            f"{method.top1.num_runs if method.top1 else 0}/{method.num_planned}",
            wording.gain(method.gain),
            wording.times(method.time),
            wording.times(method.memory),
        )
    yield table
    yield from lines_under(comparison)


def lines_under(comparison: Comparison) -> list[str]:
    """What the table cannot say."""
    lines = []
    if comparison.baseline is not None:
        lines.append(f"gain, time and memory: over the baseline's, {wording.percent(comparison.baseline)} %")
    ranking = comparison.ranking
    if ranking is None:
        return lines
    tied = [method.name for method in ranking.methods if method.first == 1]
    count = len(ranking.seeds)
    lines.append("a rank as 1-3 is one of these: paired t-tests over seeds, corrected by Holm for all pairs, level 5 %")
    if len(tied) == len(ranking.methods):
        lines.append(f"no method is distinguishable from another at n = {count}")
    elif len(tied) > 1:
        lines.append(f"not distinguishable from the best at n = {count}: {', '.join(map(one_line, tied[1:]))}")
    else:
        lines.append(f"{one_line(tied[0])} is better than every other at n = {count}")
    return lines
