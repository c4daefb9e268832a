"""Spread over seeds, and the paired gain of one setting over another: mean, deviation, Student's t-interval, tests.

A seed fixes initialisation and order, so two students of one seed form a pair (a baseline and a distilled one, or
two settings of a search), and the interval is that of the mean difference:

    mean(d) +- t(1 - 0.025 / m, n - 1) * std(d) / sqrt(n),   d = value - reference,   std with n - 1

m is 1, or the number of settings of which the better one was picked by these same pairs: then all m intervals hold
together in 95 % of such searches (Bonferroni). They speak of other seeds, not of other images: every run is scored
on the same ones. The exact tests beside the interval, see significance.py, know of no such picking.

Not a bootstrap: resampled means never leave the range of the n differences, so at n = 3 the percentile interval is that
range, and covers 75 % and not 95 (see Hesterberg 2015, The American Statistician 69, 371-386). And no interval where
all differences are equal: top1 moves in steps of an image, so two seeds agree by chance, in 1 experiment of 15 with 600
test images and gains that spread by 0.7 points.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from raykd.report.stats import significance
from raykd.report.stats.significance import LEVEL

ROUNDING = 1e-9  # relative: 88.1 - 87.1 and 89.3 - 88.3 are one gain, and differ in the 15th digit


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation (n - 1; None when n = 1) of `num_runs` values."""

    mean: float
    std: float | None
    num_runs: int

    @property
    def interval(self) -> tuple[float, float] | None:
        """Student's two-sided 95 % interval of the mean over seeds; None of one run, or of equal ones."""
        return _interval(self)

    @property
    def varies(self) -> bool:
        """Whether the values differ by more than rounding: of equal ones nothing says how far others would lie."""
        return self.std is not None and self.std > ROUNDING * abs(self.mean)


@dataclass(frozen=True)
class Pair:
    """One metric of two students of one seed: top1 in percent, or a loss, of which less is better."""

    seed: int
    reference: float
    value: float
    less_is_better: bool = False

    @property
    def gain(self) -> float:
        """By how much `value` is the better one, in the metric's unit (of top1: percentage points)."""
        return self.reference - self.value if self.less_is_better else self.value - self.reference


@dataclass(frozen=True)
class PairedGain:
    """The gain over `pairs`, positive where `who` is better; the interval needs two pairs that differ.

    comparisons: of how many settings `who` was picked by these pairs, which widens the interval.
    """

    pairs: tuple[Pair, ...]
    spread: Spread
    interval: tuple[float, float] | None
    who: str = "distilled"
    comparisons: int = 1

    @property
    def t_test_p(self) -> float | None:
        """Two-sided, of Student's paired t-test; None of one pair, or of equal ones.

        Below 0.05 where an interval of one comparison leaves out 0.
        """
        if self.spread.std is None or not self.spread.varies:
            return None
        from scipy.stats import t

        num_pairs = len(self.pairs)
        return float(2 * t.sf(abs(self.spread.mean) / self.spread.std * math.sqrt(num_pairs), num_pairs - 1))

    @property
    def sign_test_p(self) -> float:
        """Exact and two-sided, see significance.py."""
        return significance.sign_test([pair.gain for pair in self.pairs])

    @property
    def permutation_p(self) -> float | None:
        """Exact and two-sided, by all flips of signs; None of more pairs than can be flipped."""
        return significance.permutation_test([pair.gain for pair in self.pairs])

    @property
    def smallest_p(self) -> float:
        """The least that either test could have said of so many pairs."""
        return significance.smallest_p(len(self.pairs))

    @property
    def num_in_favour(self) -> int:
        """Pairs in which `who` is strictly better."""
        return sum(pair.gain > 0 for pair in self.pairs)

    @property
    def is_distinguishable(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]

    @property
    def verdict(self) -> str:
        """What the interval lets one say: better or worse only where it leaves out 0."""
        if len(self.pairs) == 1:
            return "one seed: no interval"
        if self.interval is None:
            return f"not distinguishable at n = {len(self.pairs)}: the same gain at every seed, so no interval"
        if not self.is_distinguishable:
            return f"not distinguishable at n = {len(self.pairs)}"
        better = "better" if self.spread.mean > 0 else "worse"
        return f"{self.who} is {better} at n = {len(self.pairs)}"


def spread_of(values: Sequence[float]) -> Spread | None:
    """Mean and standard deviation; None of no values."""
    if not values:
        return None
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return Spread(mean, None, 1)
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return Spread(mean, math.sqrt(variance), len(values))


def pairs_of(reference: Mapping[int, float], values: Mapping[int, float], less_is_better: bool = False) -> list[Pair]:
    """Of both by seed; a seed that only one of them has makes no pair."""
    seeds = sorted(reference.keys() & values.keys())
    return [Pair(seed, reference[seed], values[seed], less_is_better) for seed in seeds]


def paired_gain(pairs: Sequence[Pair], who: str = "distilled", comparisons: int = 1) -> PairedGain | None:
    """The gain over seeds with its two-sided t-interval of level 1 - 0.05 / comparisons; None of no pairs.

    who: what has the pairs' values, for the verdict. comparisons >= 1: see `PairedGain`.
    """
    spread = spread_of([pair.gain for pair in pairs])
    if spread is None:
        return None
    return PairedGain(tuple(pairs), spread, _interval(spread, comparisons), who, comparisons)


def least_gain(num_pairs: int, comparisons: int = 1) -> float:
    """How many standard deviations of its pairs a mean gain has to be for its interval to leave out 0: 2.5 at n = 3.

    num_pairs: at least 2. comparisons: where the largest of so many has to stand out by Holm's correction.
    """
    from scipy.stats import t  # here, because it takes longer to import than the report to write

    return float(t.ppf(1 - LEVEL / 2 / comparisons, num_pairs - 1)) / math.sqrt(num_pairs)


def _interval(spread: Spread, comparisons: int = 1) -> tuple[float, float] | None:
    if spread.std is None or not spread.varies:
        return None
    half = least_gain(spread.num_runs, comparisons) * spread.std
    return spread.mean - half, spread.mean + half
