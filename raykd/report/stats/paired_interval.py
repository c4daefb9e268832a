"""Spread over seeds, and the paired gain of one configuration over another: mean, deviation, t-interval, tests.

A seed fixes initialization and order, so two students with one seed form a pair (a baseline and a distilled student,
or two configurations of a search). The interval is that of the mean difference:

    mean(d) +- t(1 - 0.025 / m, n - 1) * std(d) / sqrt(n),   std with n - 1
    d = value - reference, or reference - value if lower is better

m is 1, or the number of configurations from which the better one was selected with these same pairs; then all m
intervals hold together in 95 % of such searches (Bonferroni). Intervals hold for other seeds. They do not hold for
other images or other teachers, because all runs are evaluated on the same images, and all students have one teacher.
The exact tests of significance.py do not account for a selection.

A bootstrap would be too narrow: resampled means stay in the range of the n differences, so at n = 3 the percentile
interval is that range and covers 75 % instead of 95 % (Hesterberg 2015, The American Statistician 69, 371-386). Equal
differences have no interval: top-1 changes in steps of one image, so two seeds agree by chance, in 1 of 15 experiments
with 600 test images and gains whose standard deviation is 0.7 points.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from raykd.report.stats import significance
from raykd.report.stats.significance import FEWEST_SEEDS, LEVEL, p_equals

DISTILLED = "distilled"  # default name of the runs that a gain belongs to
ROUNDING = 1e-9  # relative: 88.1 - 87.1 and 89.3 - 88.3 are the same gain but differ in the 15th digit


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation (with n - 1; None if n = 1) of `num_runs` values."""

    mean: float
    std: float | None
    num_runs: int

    @property
    def interval(self) -> tuple[float, float] | None:
        """Student's two-sided 95 % interval of the mean over seeds; None for one run, or for equal values."""
        return _interval(self)

    @property
    def varies(self) -> bool:
        """Whether the values differ by more than rounding; equal values are no estimate of a spread."""
        return self.std is not None and self.std > ROUNDING * abs(self.mean)


@dataclass(frozen=True)
class Pair:
    """A metric of two students with the same seed, such as top-1 in percent, or a loss (lower_is_better)."""

    seed: int
    reference: float
    value: float
    lower_is_better: bool = False

    @property
    def gain(self) -> float:
        """The improvement of `value` over `reference`, in the metric's unit (percentage points for top-1)."""
        return self.reference - self.value if self.lower_is_better else self.value - self.reference


@dataclass(frozen=True)
class PairedGain:
    """The gain over `pairs`, positive where `name` is better. An interval requires two pairs that differ.

    name: the configuration with the pairs' values, as the verdict names it. comparisons: the number of configurations
    from which it was selected with these pairs, which widens the interval. num_methods: the number of methods that are
    compared with the same reference. p_holm: the p-value of the t-test, corrected for all of them; None without a test.
    The interval stays that of this method alone.
    """

    pairs: tuple[Pair, ...]
    spread: Spread
    interval: tuple[float, float] | None
    name: str = DISTILLED
    comparisons: int = 1
    num_methods: int = 1
    p_holm: float | None = None

    @property
    def t_test_p(self) -> float | None:
        """The two-sided p-value of Student's paired t-test; None for one pair, or for equal gains.

        It is below 0.05 if and only if the interval of a single comparison excludes 0.
        """
        if self.spread.std is None or not self.spread.varies:
            return None
        from scipy.special import stdtr

        num_pairs = len(self.pairs)
        t = abs(self.spread.mean) / self.spread.std * math.sqrt(num_pairs)
        return float(2 * stdtr(num_pairs - 1, -t))

    @property
    def sign_test_p(self) -> float:
        """The exact two-sided p-value of the sign test, see significance.py."""
        return significance.sign_test([pair.gain for pair in self.pairs])

    @property
    def permutation_p(self) -> float | None:
        """The exact two-sided p-value of the permutation test; None for too many pairs."""
        return significance.permutation_test([pair.gain for pair in self.pairs])

    @property
    def smallest_p(self) -> float:
        """The smallest p-value that either exact test can reach with so many pairs."""
        return significance.smallest_p(len(self.pairs))

    @property
    def num_in_favor(self) -> int:
        """Number of pairs with a gain above 0."""
        return sum(pair.gain > 0 for pair in self.pairs)

    @property
    def is_distinguishable(self) -> bool:
        """Whether the verdict names a better side: the interval excludes 0, and p_holm is below 0.05 if there is one.

        Never with fewer than FEWEST_SEEDS pairs.
        """
        if self.interval is None or len(self.pairs) < FEWEST_SEEDS:
            return False
        if self.num_methods > 1:
            return self.p_holm is not None and self.p_holm < LEVEL
        return not self.interval[0] <= 0 <= self.interval[1]

    @property
    def verdict(self) -> str:
        """The conclusion: better or worse only if the gain is distinguishable from 0."""
        at_seeds = f"n = {len(self.pairs)}"
        if len(self.pairs) == 1:
            return "one seed: no interval"
        if len(self.pairs) < FEWEST_SEEDS:
            return f"{at_seeds}: too few seeds for a verdict"
        if self.interval is None:
            return f"not distinguishable at {at_seeds}: the same gain at every seed, so no interval"
        better = f"{self.name} is {'better' if self.spread.mean > 0 else 'worse'} at {at_seeds}"
        if self.num_methods == 1 or self.p_holm is None:
            return better if self.is_distinguishable else f"not distinguishable at {at_seeds}"
        start = better if self.is_distinguishable else f"{self.name}: not distinguishable"
        return f"{start} after correction for {self.num_methods} methods, {p_equals('Holm p', self.p_holm)}"


def spread_of(values: Sequence[float]) -> Spread | None:
    """Return mean and standard deviation; None without values."""
    if not values:
        return None
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return Spread(mean, None, 1)
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return Spread(mean, math.sqrt(variance), len(values))


def pairs_of(reference: Mapping[int, float], values: Mapping[int, float], lower_is_better: bool = False) -> list[Pair]:
    """Return a pair for each seed that both {seed: value} have."""
    seeds = sorted(reference.keys() & values.keys())
    return [Pair(seed, reference[seed], values[seed], lower_is_better) for seed in seeds]


def paired_gain(pairs: Sequence[Pair], name: str = DISTILLED, comparisons: int = 1) -> PairedGain | None:
    """Return the gain with its two-sided t-interval of level 1 - 0.05 / comparisons; None without pairs.

    name, comparisons: see `PairedGain`.
    """
    spread = spread_of([pair.gain for pair in pairs])
    if spread is None:
        return None
    return PairedGain(tuple(pairs), spread, _interval(spread, comparisons), name, comparisons)


def least_gain(num_pairs: int, comparisons: int = 1) -> float:
    """Return the least mean gain whose interval excludes 0, in standard deviations of the paired differences.

    It is 2.5 for 3 pairs. num_pairs: at least 2. comparisons: number of gains in Holm's correction of the largest.
    """
    from scipy.special import stdtrit  # scipy.stats has it too, but takes half a second to import

    return float(stdtrit(num_pairs - 1, 1 - LEVEL / 2 / comparisons)) / math.sqrt(num_pairs)


def _interval(spread: Spread, comparisons: int = 1) -> tuple[float, float] | None:
    if spread.std is None or not spread.varies:
        return None
    half = least_gain(spread.num_runs, comparisons) * spread.std
    return spread.mean - half, spread.mean + half
