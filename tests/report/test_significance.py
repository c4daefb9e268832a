"""Exact tests and Holm's correction against scipy, manual results and simulations."""

import math
from itertools import product

import numpy as np
import pytest

from raykd.report.stats.paired_interval import Pair, paired_gain, spread_of
from raykd.report.stats.significance import (
    MAX_PAIRS,
    fewest_pairs,
    holm,
    permutation_test,
    sign_test,
    signed_ranks,
    smallest_p,
    wilcoxon_test,
)


def differences_of(num_pairs: int, seed: int) -> list[float]:
    return (np.random.default_rng(seed).normal(0.4, 1.0, num_pairs)).tolist()


@pytest.mark.parametrize("num_pairs", [2, 3, 5, 8])
@pytest.mark.parametrize("seed", range(4))
def test_permutation_test_equals_scipys(num_pairs, seed):
    from scipy.stats import permutation_test as scipys

    differences = differences_of(num_pairs, seed)
    expected = scipys((differences,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
    assert permutation_test(differences) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("num_pairs", [2, 3, 5, 8, 30])
@pytest.mark.parametrize("seed", range(4))
def test_sign_test_equals_scipys_binomial_test(num_pairs, seed):
    from scipy.stats import binomtest

    differences = differences_of(num_pairs, seed)
    expected = binomtest(sum(d > 0 for d in differences), num_pairs, 0.5).pvalue
    assert sign_test(differences) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("signs", list(product((-1, 1), repeat=5))[::3])
def test_permutation_test_of_ranks_equals_wilcoxons(signs):
    """The differences are 1 to 5, so they equal their ranks."""
    from scipy.stats import wilcoxon

    differences = [sign * size for sign, size in zip(signs, (1.0, 2.0, 3.0, 4.0, 5.0), strict=True)]
    assert permutation_test(differences) == pytest.approx(wilcoxon(differences, method="exact").pvalue, rel=1e-12)


@pytest.mark.parametrize("num_pairs", range(1, 11))
def test_pairs_of_one_sign_reach_the_smallest_p_value(num_pairs):
    alike = [0.1 + seed for seed in range(num_pairs)]
    assert sign_test(alike) == permutation_test(alike) == smallest_p(num_pairs) == 2.0 ** (1 - num_pairs)
    assert wilcoxon_test(alike) == smallest_p(num_pairs)


def test_three_seeds_cannot_reach_5_percent_in_an_exact_test():
    gain = paired_gain([Pair(0, 87.0, 88.5), Pair(1, 88.0, 89.0), Pair(2, 89.0, 90.0)])
    assert (gain.sign_test_p, gain.permutation_p, gain.smallest_p) == (0.25, 0.25, 0.25)
    assert gain.is_distinguishable, "the t-test can, because it assumes normal differences"


def test_the_sign_test_leaves_out_zeros_and_the_permutation_test_does_not():
    assert sign_test([0.0, 0.0, 1.0, 2.0, 3.0]) == 0.25
    assert permutation_test([0.0, 1.0, 2.0, 3.0]) == 0.25
    assert sign_test([0.0, 0.0]) == permutation_test([0.0, 0.0]) == 1.0


@pytest.mark.parametrize("num_pairs", [2, 3, 6, 13, 30])
@pytest.mark.parametrize("seed", range(4))
def test_wilcoxons_test_equals_scipys_without_ties(num_pairs, seed):
    from scipy.stats import wilcoxon

    differences = differences_of(num_pairs, seed)
    assert wilcoxon_test(differences) == pytest.approx(wilcoxon(differences, method="exact").pvalue, rel=1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_wilcoxons_test_is_exact_with_ties_and_leaves_out_zeros(seed):
    """It equals the permutation test of the signed ranks; scipy's exact method does not, because it ignores ties."""
    differences = np.random.default_rng(seed).integers(-3, 6, 12).astype(float).tolist()
    assert wilcoxon_test(differences) == pytest.approx(permutation_test(signed_ranks(differences)), rel=1e-12)
    assert wilcoxon_test(differences) == wilcoxon_test([d for d in differences if d != 0])


def test_signed_ranks_by_hand():
    """The two equal differences in |d| = 1, 2, 2, 5 share the mean of ranks 2 and 3."""
    assert signed_ranks([2.0, -5.0, 0.0, -2.0, 1.0]) == [2.5, -4.0, -2.5, 1.0]
    assert wilcoxon_test([1.0, 1.0, -1.0]) == 1.0
    assert wilcoxon_test([]) == wilcoxon_test([0.0, 0.0]) == 1.0


def test_one_large_difference_does_not_decide_wilcoxons_test():
    """The mean is below 0, and 7 of 8 families are above it."""
    differences = [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, -40.0]
    assert wilcoxon_test(differences) == 2 * 25 / 2**8
    assert permutation_test(differences) == 1.0


def test_rounding_does_not_break_a_tie_of_sums():
    """0.1 + 0.2 and 0.3 are the same sum, so sign flips with either sum count as equal."""
    assert permutation_test([0.1, 0.2, -0.3]) == 1.0
    assert permutation_test([0.3, 0.1, 0.2]) == 0.25


def test_too_many_pairs_have_no_exact_permutation_test():
    assert permutation_test([1.0] * (MAX_PAIRS + 1)) is None
    assert permutation_test([1.0] * MAX_PAIRS) == pytest.approx(smallest_p(MAX_PAIRS))


@pytest.mark.parametrize("num_pairs", [2, 3, 7])
def test_t_test_equals_scipys_and_agrees_with_the_interval(num_pairs):
    from scipy.stats import ttest_1samp

    for seed in range(20):
        differences = differences_of(num_pairs, seed)
        gain = paired_gain([Pair(number, 80.0, 80.0 + d) for number, d in enumerate(differences)])
        assert gain.t_test_p == pytest.approx(ttest_1samp(differences, 0).pvalue, rel=1e-6)
        assert (gain.t_test_p < 0.05) == gain.is_distinguishable


def test_t_test_of_equal_differences_and_of_one_pair_is_none():
    assert paired_gain([Pair(0, 1.0, 2.0), Pair(1, 1.0, 2.0)]).t_test_p is None
    assert paired_gain([Pair(0, 1.0, 1.0), Pair(1, 2.0, 2.0)]).t_test_p is None
    assert paired_gain([Pair(0, 1.0, 2.0)]).t_test_p is None


@pytest.mark.parametrize(("level", "count"), [(0.05, 6), (0.05 / 15, 10), (0.25, 4), (0.26, 3)])
def test_fewest_pairs_is_the_first_number_that_can_reach_the_level(level, count):
    assert fewest_pairs(level) == count
    assert smallest_p(count) < level <= smallest_p(count - 1)


def test_holm_by_hand():
    """The products are 0.01 x 4, 0.02 x 3, 0.03 x 2 and 0.04 x 1, which is raised to the one before it."""
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx((0.06, 0.04, 0.06, 0.06))
    assert holm([0.6, 0.9]) == (1.0, 1.0)
    assert holm([]) == ()


def test_a_missing_test_counts_in_holm_and_raises_no_other_later():
    before = holm([0.01, None, 0.02])
    assert before == (0.03, None, 0.04)
    for p in (0.0, 0.009, 0.015, 0.5, 1.0):
        after = holm([0.01, p, 0.02])
        assert after[0] <= before[0] and after[2] <= before[2]


def test_holm_is_between_no_correction_and_bonferronis():
    generator = np.random.default_rng(0)
    for count in (1, 2, 5, 9):
        raw = generator.uniform(0, 0.2, count).tolist()
        for p, adjusted in zip(raw, holm(raw), strict=True):
            assert p <= adjusted <= min(1.0, count * p) + 1e-15


def test_exact_tests_reject_a_true_null_at_most_at_their_level():
    """The differences of 2,000 experiments with 6 seeds are skewed in size and symmetric in sign."""
    generator = np.random.default_rng(1)
    experiments = generator.exponential(1.0, (2000, 6)) ** 2 * generator.choice([-1.0, 1.0], (2000, 6))
    tolerance = 3 * math.sqrt(0.05 * 0.95 / 2000)
    for test in (sign_test, permutation_test, wilcoxon_test):
        assert np.mean([test(experiment) <= 0.05 for experiment in experiments.tolist()]) <= 0.05 + tolerance


@pytest.mark.parametrize("num_runs", [2, 3, 5])
@pytest.mark.nightly
def test_interval_of_a_mean_covers_it_in_95_of_100_experiments(num_runs):
    """4,000 experiments with normal runs around 80: the coverage is within three standard errors of 0.95."""
    generator = np.random.default_rng(num_runs)
    covered = 0
    for values in generator.normal(80.0, 0.3, (4000, num_runs)).tolist():
        low, high = spread_of(values).interval
        covered += low <= 80.0 <= high
    assert abs(covered / 4000 - 0.95) < 3 * math.sqrt(0.95 * 0.05 / 4000)


def test_interval_of_a_mean_equals_scipys_and_requires_two_runs():
    from scipy.stats import ttest_1samp

    values = [87.1, 88.4, 86.9, 87.7]
    expected = ttest_1samp(values, 0).confidence_interval(0.95)
    assert spread_of(values).interval == pytest.approx((expected.low, expected.high), rel=1e-12)
    assert spread_of([87.0]).interval is None
