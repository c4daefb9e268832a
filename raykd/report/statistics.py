"""Spread over seeds, and the paired gain of distilling: mean, standard deviation, Student's t-interval.

A seed fixes initialisation and order, so baseline and distilled student of one seed form a pair, and the
interval is that of the mean difference:

    mean(d) +- t(0.975, n - 1) * std(d) / sqrt(n),   d = distilled - baseline,   std with n - 1

It speaks of other seeds, not of other test images: every run is scored on the same ones.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation (n - 1; None when n = 1) of `num_runs` values."""

    mean: float
    std: float | None
    num_runs: int


@dataclass(frozen=True)
class Pair:
    """Test top1 in percent of both students of one seed."""

    seed: int
    baseline: float
    distilled: float

    @property
    def gain(self) -> float:
        """Distilled minus baseline, in percentage points."""
        return self.distilled - self.baseline


@dataclass(frozen=True)
class PairedGain:
    """Distilled minus baseline over `pairs`, in percentage points; the interval needs two pairs."""

    pairs: tuple[Pair, ...]
    spread: Spread
    interval: tuple[float, float] | None

    @property
    def num_in_favour(self) -> int:
        """Pairs in which the distilled student is strictly better."""
        return sum(pair.gain > 0 for pair in self.pairs)

    @property
    def is_distinguishable(self) -> bool:
        """Whether the 95 % interval leaves out 0."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]

    @property
    def verdict(self) -> str:
        """What the 95 % interval lets one say: better or worse only where it leaves out 0."""
        if self.interval is None:
            return "one seed: no interval"
        if not self.is_distinguishable:
            return f"not distinguishable at n = {len(self.pairs)}"
        better = "better" if self.spread.mean > 0 else "worse"
        return f"distilled is {better} at n = {len(self.pairs)}"


def spread_of(values: Sequence[float]) -> Spread | None:
    """Mean and standard deviation; None of no values."""
    if not values:
        return None
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return Spread(mean, None, 1)
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return Spread(mean, math.sqrt(variance), len(values))


def paired_gain(pairs: Sequence[Pair]) -> PairedGain | None:
    """The gain over seeds with its two-sided 95 % t-interval; None of no pairs."""
    spread = spread_of([pair.gain for pair in pairs])
    if spread is None:
        return None
    if spread.std is None:
        return PairedGain(tuple(pairs), spread, None)
    from scipy.stats import t  # here, because it takes longer to import than the report to write

    half = float(t.ppf(0.975, len(pairs) - 1)) * spread.std / math.sqrt(len(pairs))
    return PairedGain(tuple(pairs), spread, (spread.mean - half, spread.mean + half))
