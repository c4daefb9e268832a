"""Friedman's test against Demsar's example, scipy, all permutations and simulations."""

import math
from itertools import permutations, product

import numpy as np
import pytest
from scipy.stats import f, friedmanchisquare, rankdata

from raykd.report.stats.friedman import friedman_test

# Demsar 2006, table 6: AUC of four variants of C4.5 on 14 data sets. In "voting" he ranks the last two 2 and 3.
DEMSAR = (
    (0.763, 0.768, 0.771, 0.798),
    (0.599, 0.591, 0.590, 0.569),
    (0.954, 0.971, 0.968, 0.967),
    (0.628, 0.661, 0.654, 0.657),
    (0.882, 0.888, 0.886, 0.898),
    (0.936, 0.931, 0.916, 0.931),
    (0.661, 0.668, 0.609, 0.685),
    (0.583, 0.583, 0.563, 0.625),
    (0.775, 0.838, 0.866, 0.875),
    (1.000, 1.000, 1.000, 1.000),
    (0.940, 0.962, 0.965, 0.962),
    (0.619, 0.666, 0.614, 0.669),
    (0.972, 0.981, 0.9751, 0.975),
    (0.957, 0.978, 0.946, 0.970),
)


def ranks_of(values) -> list[list[float]]:
    return rankdata(-np.asarray(values), axis=1).tolist()


def chi2_with_ties(ranks) -> float:
    """Return the statistic as in the docstring of the module, written out."""
    ranks = np.asarray(ranks)
    (n, k), middle = ranks.shape, (ranks.shape[1] + 1) / 2
    return (k - 1) * ((ranks.sum(axis=0) - n * middle) ** 2).sum() / ((ranks**2).sum() - n * k * middle**2)


def test_demsars_example():
    """He has mean ranks 3.143, 2.000, 2.893 and 1.964, chi2 9.28 and F 3.69, without the correction for ties."""
    ranks = ranks_of(DEMSAR)
    means = np.mean(ranks, axis=0)
    assert means == pytest.approx([3.143, 2.000, 2.893, 1.964], abs=5e-4)
    n, k = np.shape(ranks)
    uncorrected = 12 * n / (k * (k + 1)) * ((means**2).sum() - k * (k + 1) ** 2 / 4)
    assert uncorrected == pytest.approx(9.28, abs=0.01)
    assert (n - 1) * uncorrected / (n * (k - 1) - uncorrected) == pytest.approx(3.69, abs=0.01)
    test = friedman_test(ranks)
    assert test.chi2 == pytest.approx(chi2_with_ties(ranks)) and test.chi2 > uncorrected
    assert test.f == pytest.approx((n - 1) * test.chi2 / (n * (k - 1) - test.chi2))
    assert test.p == pytest.approx(f.sf(test.f, k - 1, (k - 1) * (n - 1)), rel=0.3) and test.is_distinguishable


@pytest.mark.parametrize(("num_families", "num_methods"), [(2, 3), (5, 4), (13, 14)])
def test_chi2_equals_scipys_and_the_formula(num_families, num_methods):
    values = np.random.default_rng(num_families).normal(size=(num_families, num_methods)).round(1)
    test = friedman_test(ranks_of(values))
    assert test.chi2 == pytest.approx(friedmanchisquare(*values.T).statistic)
    assert test.chi2 == pytest.approx(chi2_with_ties(ranks_of(values)))


@pytest.mark.parametrize("seed", range(5))
def test_p_is_that_of_all_permutations(seed):
    """Three families and three methods have 216 orders; the error of 9,999 drawn ones is at most 0.005 (one sigma)."""
    ranks = ranks_of(np.random.default_rng(seed).normal(size=(3, 3)).round(seed % 2))
    orders = product(*(list(permutations(row)) for row in ranks))
    statistics = [float((np.sum(order, axis=0) ** 2).sum()) for order in orders]
    observed = float((np.sum(ranks, axis=0) ** 2).sum())
    assert friedman_test(ranks).p == pytest.approx(np.mean([value >= observed for value in statistics]), abs=0.02)


def test_the_same_order_in_all_families_has_no_f_and_a_p_above_0():
    """Without an effect, three families have the same order of three methods in 1 of 36 experiments."""
    test = friedman_test([[1.0, 2.0, 3.0]] * 3)
    assert (test.chi2, test.f) == (pytest.approx(6.0), None)
    assert test.p == pytest.approx(1 / 36, abs=0.005)


def test_p_is_the_same_each_time():
    ranks = ranks_of(np.random.default_rng(0).normal(size=(6, 5)))
    assert friedman_test(ranks) == friedman_test([list(row) for row in ranks])


@pytest.mark.parametrize("ranks", [[], [[1.0, 2.0, 3.0]], [[1.0, 2.0]] * 4, [[2.0, 2.0, 2.0]] * 4])
def test_one_family_two_methods_or_only_ties_have_no_test(ranks):
    assert friedman_test(ranks) is None


@pytest.mark.parametrize(
    ("num_families", "num_methods"),
    [(2, 3), (3, 3), *(pytest.param(n, k, marks=pytest.mark.nightly) for n, k in ((3, 4), (6, 6)))],
)
def test_a_true_null_is_rejected_at_most_at_the_level(num_families, num_methods):
    """400 experiments. The F distribution would reject 0.19 of those with three families and three methods."""
    generator, count = np.random.default_rng(13), 400
    tests = [friedman_test(ranks_of(generator.normal(size=(num_families, num_methods)))) for _ in range(count)]
    rejected = np.mean([test.is_distinguishable for test in tests])
    assert rejected <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / count)
    if (num_families, num_methods) == (3, 3):
        by_f = [test.f is None or f.sf(test.f, 2, 4) < 0.05 for test in tests]
        assert np.mean(by_f) > 0.15
