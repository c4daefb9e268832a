"""The runs of a stage together: values by seed, top-1 of each class, one confusion matrix, one reliability diagram."""

from collections.abc import Callable, Iterable, Sequence

from raykd.errors import flattened
from raykd.report.read.run_results import RunResult
from raykd.report.stats.paired_interval import Spread, spread_of
from raykd.store.records import Metrics, Reliability


def by_seed(runs: Iterable[RunResult], value_of: Callable[[RunResult], float | None]) -> dict[int, float]:
    """Return {seed: value} of the evaluated runs, without those whose value is None."""
    values = {run.record.seed: value_of(run) for run in runs if run.record and run.state == "evaluated"}
    return {seed: value for seed, value in values.items() if value is not None}


def on_test(metric: str) -> Callable[[RunResult], float | None]:
    """Return a function for `by_seed` that returns a metric on the test split."""
    return lambda run: run.test.numbers.get(metric) if run.test else None


def are_evaluated_alike(*groups: Iterable[RunResult]) -> bool:
    """Return whether all evaluated runs are evaluated by classifiers, or all by linear probes."""
    return len({run.test.is_probe for runs in groups for run in runs if run.test}) <= 1


def classes_of(results: Sequence[Metrics]) -> tuple[str, ...]:
    """Return the classes' names on one printable line each, if all runs that record them agree; else ()."""
    names = {result.classes for result in results if result.classes}
    return tuple(map(flattened, names.pop())) if len(names) == 1 else ()


def class_top1(results: Sequence[Metrics]) -> tuple[Spread | None, ...]:
    """Return the spread of each class's top-1; () without any, or if the runs have different numbers of classes."""
    by_run = [result.class_top1 for result in results if result.class_top1]
    if len({len(by_class) for by_class in by_run}) != 1:
        return ()
    return tuple(spread_of([top1 for top1 in values if top1 is not None]) for values in zip(*by_run, strict=True))


def confusion(results: Sequence[Metrics]) -> tuple[tuple[int, ...], ...]:
    """Return the sum of the confusion matrices, [label][predicted] in images; () as for `class_top1`."""
    matrices = [result.confusion for result in results if result.confusion]
    if len({len(matrix) for matrix in matrices}) != 1:
        return ()
    return tuple(
        tuple(sum(cells) for cells in zip(*rows, strict=True))  # rows of one label, from every matrix
        for rows in zip(*matrices, strict=True)
    )


def reliability(results: Sequence[Metrics]) -> Reliability | None:
    """Return one diagram of all images; None without any, or if the runs have different numbers of bins."""
    diagrams = [result.reliability for result in results if result.reliability]
    if len({len(bins.count) for bins in diagrams}) != 1:
        return None
    counts = tuple(sum(counts) for counts in zip(*(bins.count for bins in diagrams), strict=True))

    def mean(name: str) -> tuple[float | None, ...]:
        sums = [0.0] * len(counts)
        for bins in diagrams:
            for number, (count, value) in enumerate(zip(bins.count, getattr(bins, name), strict=True)):
                sums[number] += count * (value or 0.0)
        return tuple(total / count if count else None for total, count in zip(sums, counts, strict=True))

    return Reliability(counts, mean("confidence"), mean("accuracy"))
