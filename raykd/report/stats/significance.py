"""Exact tests of paired differences d_1..d_n over seeds or families, and Holm's correction for several of them.

    sign         under H0 each d_i != 0 is positive with probability 1/2: binomial in the number of positive ones
    permutation  under H0 each d_i is as likely -d_i: the share of the 2^n sign flips with |sum d| at least as large
    Wilcoxon     likewise for the signed ranks of |d_i| (Wilcoxon 1945), so that one large difference cannot decide

None assumes a normal distribution. All are two-sided, and no p-value of n pairs is below 2^(1 - n): 0.25 for n = 3. The
sign test and Wilcoxon's test leave out d_i = 0 (Dixon and Mood 1946); sign flips: Fisher 1935. Equal |d_i| have their
mean rank, and Wilcoxon's p-value is exact with such ties too, which scipy.stats.wilcoxon(method="exact") is not: it
uses the distribution of ranks without ties. Holm 1979, Scandinavian Journal of Statistics 6, 65-70.
"""

from collections import Counter
from collections.abc import Sequence
from math import comb

LEVEL = 0.05  # a difference requires a p-value below it; the level of intervals is 95 %
FEWEST_SEEDS = 3  # for a verdict: two seeds estimate the spread with one degree of freedom
MAX_PAIRS = 20  # 2^20 sign flips, about a million
SAME = 1e-12  # relative: sums of the same terms in another order differ by rounding


def smallest_p(num_pairs: int) -> float:
    """Return the smallest two-sided p-value that an exact test can reach with so many pairs; 1 without pairs."""
    return min(1.0, 2.0 ** (1 - num_pairs))


def p_value(p: float | None) -> str:
    """Return '0.20', '0.0060' or '<0.001': two significant digits, or more where rounding would cross 0.05."""
    if p is None:
        return "-"
    if p < 0.001:
        return "<0.001"
    texts = (f"{p:#.{digits}g}" for digits in range(2, 18))
    return next(text for text in texts if (float(text) < LEVEL) == (p < LEVEL))


def p_equals(name: str, p: float) -> str:
    """Return 'sign p = 0.25', or 'sign p < 0.001'."""
    return f"{name} = {p_value(p)}".replace("= <", "< ")


def fewest_pairs(level: float = LEVEL) -> int:
    """Return how many pairs an exact test requires for a p-value below `level`: 6 for 0.05."""
    return next(count for count in range(1, 1100) if smallest_p(count) < level)


def sign_test(differences: Sequence[float]) -> float:
    """Return the two-sided p-value; 1 if all differences are 0."""
    num_positive, num_negative = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    num_pairs = num_positive + num_negative
    tail = sum(comb(num_pairs, count) for count in range(min(num_positive, num_negative) + 1))
    return min(1.0, 2 * tail / 2**num_pairs)


def permutation_test(differences: Sequence[float]) -> float | None:
    """Return the two-sided p-value of the mean over all sign flips; None with more than MAX_PAIRS."""
    import numpy as np  # here: modules that only format numbers import this one

    if len(differences) > MAX_PAIRS:
        return None
    sums = np.zeros(1)
    for difference in differences:
        sums = np.concatenate([sums + difference, sums - difference])
    observed, scale = abs(sums[0]), sum(abs(difference) for difference in differences)
    return float(np.mean(np.abs(sums) >= observed - SAME * scale))


def signed_ranks(differences: Sequence[float]) -> list[float]:
    """Return the rank of each |d| among those that are not 0, from 1, with the sign of d; equal ones share the mean.

    Differences that are equal up to rounding must be equal here.
    """
    from scipy.stats import rankdata

    kept = [d for d in differences if d != 0]
    ranks = rankdata([abs(d) for d in kept]).tolist() if kept else []
    return [rank if d > 0 else -rank for d, rank in zip(kept, ranks, strict=True)]


def wilcoxon_test(differences: Sequence[float]) -> float:
    """Return the two-sided p-value of Wilcoxon's signed-rank test, exact with ties; 1 if all differences are 0."""
    doubled = [round(2 * rank) for rank in signed_ranks(differences)]  # twice a mean rank is an integer
    num_flips = Counter({0: 1})  # {sum of the signed ranks, doubled: how many of the sign flips have it}
    for rank in doubled:
        flipped = [Counter({total + sign * rank: count for total, count in num_flips.items()}) for sign in (1, -1)]
        num_flips = flipped[0] + flipped[1]
    return sum(num_flips[total] for total in num_flips if abs(total) >= abs(sum(doubled))) / 2 ** len(doubled)


def holm(p_values: Sequence[float | None]) -> tuple[float | None, ...]:
    """Return adjusted p-values: all those below 0.05 hold together in 95 % of cases, for any dependence of the tests.

    The i-th smallest of m, from 0, is multiplied by m - i; the results never decrease and never exceed 1. None, a test
    that does not exist yet, counts as 1 and stays None, so that its later value cannot raise the others. "Hold" means
    that the two sides differ; for independent tests it also covers which one is better (Shaffer 1980, Annals of
    Statistics 8, 1342-1347).
    """
    known = [1.0 if p is None else p for p in p_values]
    adjusted, highest = [0.0] * len(known), 0.0
    for place, index in enumerate(sorted(range(len(known)), key=lambda index: known[index])):
        highest = max(highest, min(1.0, (len(known) - place) * known[index]))
        adjusted[index] = highest
    return tuple(None if p is None else corrected for p, corrected in zip(p_values, adjusted, strict=True))
