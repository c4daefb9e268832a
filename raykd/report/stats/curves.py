"""A stage's learning curve: the mean over its seeds at each epoch, and the range from worst to best seed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from raykd.report.read.run_results import ENDED, History, RunResult
from raykd.report.stats.paired_interval import spread_of


@dataclass(frozen=True)
class Curve:
    """One value per epoch, counted from 1, over all `num_runs` runs. low and high: the smallest and the largest value.

    It ends with the shortest run, see `curve_of`.
    """

    epochs: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    num_runs: int


def comparable_histories(runs: Sequence[RunResult]) -> tuple[History, ...]:
    """Return the histories of the done runs, or of the unfinished ones if none is done.

    A mean over both would jump at the epoch where an unfinished run ends.
    """
    with_history = [run for run in runs if run.history and run.record]
    done = [run for run in with_history if run.state in ENDED]
    return tuple(run.history for run in done or with_history if run.history)


def curve_of(histories: Sequence[History], column: str) -> Curve | None:
    """Return the curve of a column over the runs that have it; None without an epoch in which all of them have a value.

    Other epochs are left out. Runs with a `patience` end after different epochs, and those that end last are the best
    ones. A mean over the longer runs alone would jump where a run ends, and finish with the value of the luckiest seed.
    """
    recorded = [history for history in histories if column in history.columns]
    by_epoch: dict[int, list[float]] = {}
    for history in recorded:
        for epoch, value in zip(history.epochs, history.columns[column], strict=True):
            if math.isfinite(value):
                by_epoch.setdefault(epoch, []).append(value)
    epochs = tuple(sorted(epoch for epoch, values in by_epoch.items() if len(values) == len(recorded)))
    if not epochs:
        return None
    spreads = [spread_of(by_epoch[epoch]) for epoch in epochs]
    return Curve(
        tuple(epoch + 1 for epoch in epochs),
        tuple(spread.mean for spread in spreads if spread),
        tuple(min(by_epoch[epoch]) for epoch in epochs),
        tuple(max(by_epoch[epoch]) for epoch in epochs),
        num_runs=len(recorded),
    )
