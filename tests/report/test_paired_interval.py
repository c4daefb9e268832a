"""Spread and paired gain against manual results and scipy's t-test."""

import math
from dataclasses import replace

import numpy as np
import pytest

from raykd.report import wording
from raykd.report.stats.paired_interval import Pair, least_gain, paired_gain, pairs_of, spread_of


def test_spread_is_mean_and_standard_deviation_with_n_minus_1():
    spread = spread_of([87.0, 88.0, 92.0])
    assert spread.mean == 89.0
    assert spread.std == pytest.approx(math.sqrt((4 + 1 + 9) / 2), rel=1e-15)
    assert spread.num_runs == 3


def test_spread_of_one_value_has_no_deviation():
    assert spread_of([88.0]).std is None
    assert spread_of([]) is None


@pytest.mark.parametrize("num_seeds", [2, 3, 5, 30])
def test_the_interval_is_that_of_scipys_paired_t_test(num_seeds):
    from scipy.stats import ttest_rel

    pairs = [Pair(s, 80 + math.sin(s), 80.5 + math.sin(s) + 0.7 * math.cos(3 * s)) for s in range(num_seeds)]
    gain = paired_gain(pairs)
    test = ttest_rel([pair.value for pair in pairs], [pair.reference for pair in pairs])
    expected = test.confidence_interval(0.95)
    assert gain.interval == pytest.approx((expected.low, expected.high), rel=1e-9)
    assert gain.is_distinguishable == (test.pvalue < 0.05 and num_seeds > 2)


def test_three_seeds_by_hand():
    """Gains 1.5, 1, 1: mean 7/6, std sqrt(1/12), t(0.975, 2) = 4.30265, half width 0.71711."""
    gain = paired_gain([Pair(0, 87.0, 88.5), Pair(1, 88.0, 89.0), Pair(2, 89.0, 90.0)])
    assert gain.spread.mean == pytest.approx(7 / 6, rel=1e-15)
    assert gain.spread.std == pytest.approx(math.sqrt(1 / 12), rel=1e-14)
    assert gain.interval == pytest.approx((7 / 6 - 0.71711, 7 / 6 + 0.71711), abs=1e-5)
    assert gain.num_in_favor == 3
    assert gain.verdict == "distilled is better at n = 3"


def test_a_gain_with_0_in_its_interval_is_not_distinguishable():
    gain = paired_gain([Pair(0, 87.0, 88.5), Pair(1, 88.0, 87.0), Pair(2, 89.0, 90.0)])
    assert gain.verdict == "not distinguishable at n = 3"
    assert gain.num_in_favor == 2


def test_a_gain_with_its_interval_below_0_is_worse():
    gain = paired_gain([Pair(0, 88.5, 87.0), Pair(1, 89.0, 88.0), Pair(2, 90.0, 89.0)])
    assert gain.verdict == "distilled is worse at n = 3"


def test_equal_students_are_not_distinguishable():
    gain = paired_gain([Pair(0, 88.0, 88.0), Pair(1, 89.0, 89.0), Pair(2, 89.5, 89.5)])
    assert (gain.interval, gain.num_in_favor) == (None, 0)
    assert gain.verdict == "not distinguishable at n = 3: the same gain at every seed, so no interval"


def test_two_seeds_have_an_interval_and_no_verdict():
    """Gains of 2.0 and 2.2: the interval excludes 0, but its width is estimated with one degree of freedom."""
    gain = paired_gain([Pair(0, 80.0, 82.0), Pair(1, 81.0, 83.2)])
    assert gain.interval is not None and gain.interval[0] > 0
    assert (gain.is_distinguishable, gain.verdict) == (False, "n = 2: too few seeds for a verdict")
    assert wording.capital(gain.verdict) == gain.verdict
    assert paired_gain([Pair(0, 80.0, 81.0), Pair(1, 81.0, 82.0)]).verdict == "n = 2: too few seeds for a verdict"


@pytest.mark.parametrize(
    ("p_holm", "verdict", "is_distinguishable"),
    [
        (0.11, "kd: not distinguishable after correction for 15 methods, Holm p = 0.11", False),
        (0.012, "kd is better at n = 3 after correction for 15 methods, Holm p = 0.012", True),
        (0.0004, "kd is better at n = 3 after correction for 15 methods, Holm p < 0.001", True),
    ],
)
def test_the_verdict_on_a_compared_method_is_that_after_the_correction(p_holm, verdict, is_distinguishable):
    gain = paired_gain([Pair(0, 87.0, 88.5), Pair(1, 88.0, 89.0), Pair(2, 89.0, 90.0)], "kd")
    compared = replace(gain, num_methods=15, p_holm=p_holm)
    assert (compared.verdict, compared.is_distinguishable) == (verdict, is_distinguishable)
    assert compared.interval == gain.interval


@pytest.mark.parametrize("pairs", [[(87.0, 88.0), (88.0, 89.0)], [(87.1, 88.1), (88.3, 89.3), (88.7, 89.7)]])
def test_equal_gains_have_no_interval_and_no_test(pairs):
    """A difference of 1e-14 by rounding would otherwise have a t value of 1e14."""
    gain = paired_gain([Pair(seed, *values) for seed, values in enumerate(pairs)])
    assert (gain.interval, gain.t_test_p, gain.is_distinguishable) == (None, None, False)
    assert gain.spread.mean == pytest.approx(1.0)
    assert spread_of([88.0, 88.0]).interval is None


def test_agreement_by_chance_on_few_test_images_makes_no_gain():
    """5,000 experiments of two seeds and 597 test images without a gain: at most 5 % may be distinguishable."""
    generator = np.random.default_rng(3)
    step = 100 / 597
    gains = np.round(generator.normal(0.0, 0.7, (5000, 2)) / step) * step
    measured = [
        paired_gain([Pair(seed, 90.0, 90.0 + gain) for seed, gain in enumerate(experiment)])
        for experiment in gains.tolist()
    ]
    assert np.mean([gain.is_distinguishable for gain in measured]) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 5000)


def test_only_common_seeds_make_pairs():
    pairs = pairs_of({0: 80.0, 1: 81.0, 3: 83.0}, {3: 85.0, 2: 84.0, 1: 82.0})
    assert pairs == [Pair(1, 81.0, 82.0), Pair(3, 83.0, 85.0)]
    assert pairs_of({0: 1.0}, {1: 1.0}) == []


@pytest.mark.parametrize(("comparisons", "expected"), [(1, 4.30265), (15, 17.27718)])
def test_the_least_gain_that_three_seeds_can_show_by_hand(comparisons, expected):
    """The expected value is t(2) in closed form, divided by sqrt(3)."""
    level = 1 - 0.05 / comparisons
    assert level * math.sqrt(2 / (1 - level**2)) == pytest.approx(expected, abs=1e-5)
    assert least_gain(3, comparisons) == pytest.approx(expected / math.sqrt(3), abs=1e-5)


def test_the_verdict_of_one_seed_is_that_it_has_no_interval():
    gain = paired_gain([Pair(4, 87.0, 95.0)])
    assert gain.interval is None
    assert not gain.is_distinguishable
    assert gain.verdict == "one seed: no interval"


def test_a_selected_gain_has_the_interval_of_bonferroni():
    """Gains 1, 1.5, 0.5, selected from 3: t(1 - 0.025 / 3, 2) = 7.64880, std 0.5, half width 2.20802."""
    gain = paired_gain([Pair(0, 85.0, 86.0), Pair(1, 86.0, 87.5), Pair(2, 87.0, 87.5)], "the winner", comparisons=3)
    level = 1 - 0.05 / 3
    assert level * math.sqrt(2 / (1 - level**2)) == pytest.approx(7.64880, abs=1e-5)  # t(2) in closed form
    assert gain.interval == pytest.approx((1 - 2.20802, 1 + 2.20802), abs=1e-5)
    assert gain.verdict == "not distinguishable at n = 3"


def test_a_lower_loss_is_a_gain():
    losses = [(0.5, 0.4), (0.6, 0.501), (0.55, 0.4495)]
    gain = paired_gain([Pair(seed, *pair, lower_is_better=True) for seed, pair in enumerate(losses)], "the winner")
    assert gain.spread.mean == pytest.approx((0.1 + 0.099 + 0.1005) / 3)
    assert gain.num_in_favor == 3
    assert gain.verdict == "the winner is better at n = 3"


def test_no_pairs_have_no_gain():
    assert paired_gain([]) is None


@pytest.mark.parametrize(
    ("names", "verdict", "in_favor"),
    [
        ((), "distilled is better at n = 3", "3 of 3 seeds in favor of distillation"),
        (("the winner",), "the winner is better at n = 3", "3 of 3 seeds in favor of the winner"),
    ],
)
def test_verdict_and_count_of_seeds_name_the_same_side(names: tuple[str, ...], verdict: str, in_favor: str) -> None:
    gain = paired_gain([Pair(seed, 80.0, 82.0 + 0.1 * seed) for seed in range(3)], *names)
    assert gain is not None and (gain.verdict, wording.in_favor(gain)) == (verdict, in_favor)
