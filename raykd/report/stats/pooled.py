"""A stage's runs together: by seed, each class's spread over seeds, one confusion, one reliability diagram."""

from collections.abc import Callable, Iterable, Sequence

from raykd.errors import flattened
from raykd.report.read.records import RunResult
from raykd.report.stats.statistics import Spread, spread_of
from raykd.store.records import Metrics, Reliability


def by_seed(runs: Iterable[RunResult], of: Callable[[RunResult], float | None]) -> dict[int, float]:
    """What `of` says of each evaluated run, by its seed; a run of which it says None is left out."""
    found = {run.record.seed: of(run) for run in runs if run.record and run.state == "evaluated"}
    return {seed: value for seed, value in found.items() if value is not None}


def on_test(name: str) -> Callable[[RunResult], float | None]:
    """For `by_seed`: the measure `name` on the test set."""
    return lambda run: run.score.numbers.get(name) if run.score else None


def classes_of(scores: Sequence[Metrics]) -> tuple[str, ...]:
    """Return the classes' names on one printable line each, where all scores that name them agree; else ()."""
    names = {score.classes for score in scores if score.classes}
    return tuple(map(flattened, names.pop())) if len(names) == 1 else ()


def class_top1(scores: Sequence[Metrics]) -> tuple[Spread | None, ...]:
    """Of each class, over the scores that have it; () where none has, or they are of different classes."""
    found = [score.class_top1 for score in scores if score.class_top1]
    if len({len(by_class) for by_class in found}) != 1:
        return ()
    return tuple(spread_of([top1 for top1 in values if top1 is not None]) for values in zip(*found, strict=True))


def confusion(scores: Sequence[Metrics]) -> tuple[tuple[int, ...], ...]:
    """[label][predicted]: images of all scores that have one; () as above."""
    found = [score.confusion for score in scores if score.confusion]
    if len({len(table) for table in found}) != 1:
        return ()
    return tuple(
        tuple(sum(cells) for cells in zip(*rows, strict=True))  # of one label, from every table
        for rows in zip(*found, strict=True)
    )


def reliability(scores: Sequence[Metrics]) -> Reliability | None:
    """All scores' images in the same bins; None where none has bins, or they are not the same."""
    found = [score.reliability for score in scores if score.reliability]
    if len({len(bins.count) for bins in found}) != 1:
        return None
    counts = tuple(sum(counts) for counts in zip(*(bins.count for bins in found), strict=True))

    def mean(name: str) -> tuple[float | None, ...]:
        sums = [0.0] * len(counts)
        for bins in found:
            for number, (count, value) in enumerate(zip(bins.count, getattr(bins, name), strict=True)):
                sums[number] += count * (value or 0.0)
        return tuple(total / count if count else None for total, count in zip(sums, counts, strict=True))

    return Reliability(counts, mean("confidence"), mean("accuracy"))
