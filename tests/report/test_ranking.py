"""Ranks of methods against manual results, with ties, and their coverage in simulated experiments."""

import math

import numpy as np
import pytest

from raykd.report.stats.ranking import rank


def by_seed(*values: float) -> dict[int, float]:
    return dict(enumerate(values))


def ranks(ranking) -> dict[str, str]:
    return {method.name: method.rank for method in ranking.methods}


def test_distinguishable_methods_have_distinct_ranks():
    ranking = rank({"ce": by_seed(85.0, 85.1, 85.2), "dkd": by_seed(89.0, 89.2, 89.1), "kd": by_seed(87.0, 87.1, 87.3)})
    assert [method.name for method in ranking.methods] == ["dkd", "kd", "ce"]
    assert ranks(ranking) == {"dkd": "1", "kd": "2", "ce": "3"}
    assert ranking.best == "dkd" and ranking.pairs[0].verdict == "dkd is better than kd at n = 3"


def test_indistinguishable_methods_share_a_range_of_ranks():
    ranking = rank({"a": by_seed(88.0, 88.4, 88.1), "b": by_seed(88.3, 88.0, 88.1), "c": by_seed(80.0, 80.2, 80.05)})
    assert ranks(ranking) == {"a": "1-2", "b": "1-2", "c": "3"}
    tie = next(pair for pair in ranking.pairs if {pair.better, pair.worse} == {"a", "b"})
    assert tie.is_tie and tie.verdict == "not distinguishable at n = 3"


def test_a_pair_that_only_holms_correction_makes_a_tie_has_the_verdict_of_a_tie():
    ranking = rank({"a": by_seed(91.0, 91.4, 90.8), "b": by_seed(90.0, 90.0, 90.0), "c": by_seed(88.0, 91.5, 90.2)})
    pair = next(pair for pair in ranking.pairs if {pair.better, pair.worse} == {"a", "b"})
    assert pair.gain.t_test_p < 0.05 < pair.gain.p_holm
    assert pair.is_tie and pair.verdict == "not distinguishable at n = 3"


def test_ties_are_not_transitive():
    """b lies between a and c with noise of its own: it ties with both, and a is better than c."""
    ranking = rank({"a": by_seed(90.0, 91.0, 92.0), "b": by_seed(90.9, 89.0, 91.9), "c": by_seed(89.0, 90.0, 91.01)})
    assert ranks(ranking) == {"a": "1-2", "b": "1-3", "c": "2-3"}


def test_best_mean_may_tie_with_a_method_that_is_not_the_best():
    """One lucky seed makes the best mean, which ties with all. Still, b is better than c."""
    ranking = rank({"a": by_seed(95.0, 85.0, 90.5), "b": by_seed(90.0, 90.1, 90.05), "c": by_seed(89.0, 89.1, 89.04)})
    assert ranks(ranking) == {"a": "1-3", "b": "1-2", "c": "2-3"}


@pytest.mark.nightly
def test_better_is_transitive():
    """Simulate 2,000 experiments of three seeds with methods whose noise is shared, opposed or independent."""
    generator, chains = np.random.default_rng(5), 0
    for _ in range(2000):
        noise = generator.normal(0, 0.2, (3, 3)) @ generator.normal(0, 1.0, (3, 3))
        values = noise + np.array([10.0, 5.0, 0.0]) * generator.uniform(0.2, 1.0)
        ranking = rank({name: by_seed(*values[:, column].tolist()) for column, name in enumerate("abc")})
        apart = {(pair.better, pair.worse) for pair in ranking.pairs if not pair.is_tie}
        first, second, third = (method.name for method in ranking.methods)
        if {(first, second), (second, third)} <= apart:
            chains += 1
            assert (first, third) in apart
    assert chains > 100


def test_methods_with_equal_differences_tie_and_do_not_affect_others():
    """a - b is 0.5 at each seed by chance. Still, both are better than c."""
    ranking = rank({"a": by_seed(90.5, 90.6, 90.8), "b": by_seed(90.0, 90.1, 90.3), "c": by_seed(80.0, 80.2, 80.1)})
    assert ranks(ranking) == {"a": "1-2", "b": "1-2", "c": "3"}
    assert ranking.pairs[0].verdict == "not distinguishable at n = 3: the same gain at every seed, so no interval"


def test_holms_correction_turns_a_single_significant_pair_into_a_tie():
    """p of a - b is 0.03 alone, and at least 0.06 among three comparisons."""
    two = {"a": by_seed(88.0, 88.6, 88.9, 88.1), "b": by_seed(87.5, 87.9, 88.6, 87.9)}
    alone = rank(two)
    assert 0.02 < alone.pairs[0].gain.t_test_p == alone.pairs[0].gain.p_holm < 0.05
    assert ranks(alone) == {"a": "1", "b": "2"}
    three = rank(two | {"c": by_seed(88.9, 87.2, 88.8, 87.9)})
    assert three.methods[0].first == 1 and three.methods[-1].last == 3
    assert all(pair.is_tie for pair in three.pairs)


def test_only_seeds_that_all_methods_have_are_compared():
    ranking = rank({"a": {0: 1.0, 1: 2.0, 2: 9.0}, "b": {1: 1.0, 2: 1.0, 3: 5.0}})
    assert ranking.seeds == (1, 2)
    assert ranking.pairs[0].gain.spread.mean == 4.5


def test_one_seed_cannot_rank_methods():
    ranking = rank({"a": by_seed(90.0), "b": by_seed(80.0)})
    assert ranks(ranking) == {"a": "1-2", "b": "1-2"}
    assert (ranking.pairs[0].gain.t_test_p, ranking.pairs[0].verdict) == (None, "one seed: no interval")


def test_two_seeds_rank_no_method():
    """The differences of 10.0 and 10.1 have a p of 0.003, from a spread with one degree of freedom."""
    ranking = rank({"a": by_seed(90.0, 91.1), "b": by_seed(80.0, 81.0)})
    assert ranking.pairs[0].gain.t_test_p < 0.05
    assert ranks(ranking) == {"a": "1-2", "b": "1-2"}
    assert ranking.pairs[0].verdict == "n = 2: too few seeds for a verdict"


@pytest.mark.parametrize("values", [{}, {"a": {0: 1.0}}, {"a": {0: 1.0}, "b": {1: 2.0}}])
def test_fewer_than_two_methods_have_no_ranking(values):
    assert rank(values) is None


@pytest.mark.parametrize(
    "means",
    [
        (0.0, 0.0, 0.0, 0.0),
        pytest.param((0.0, 0.0, 0.8, 1.6), marks=pytest.mark.nightly),
        pytest.param((0.0, 0.01, 9.0, 9.01), marks=pytest.mark.nightly),
    ],
    ids=["all methods are equal", "two are equal", "pairs are nearly equal and far apart"],
)
def test_all_true_ranks_are_covered_together_in_95_of_100_experiments(means):
    """600 experiments of 5 seeds; methods share a part of each seed's noise. An equal method may have either rank."""
    generator, count = np.random.default_rng(7), 600
    covered = 0
    for _ in range(count):
        values = np.asarray(means) + generator.normal(0, 0.5, (5, 1)) + generator.normal(0, 0.3, (5, 4))
        ranking = rank({str(method): by_seed(*values[:, method].tolist()) for method in range(4)})
        for method in ranking.methods:
            own = means[int(method.name)]
            first, last = 1 + sum(mean > own for mean in means), 4 - sum(mean < own for mean in means)
            if not method.first <= first or not last <= method.last:
                break
        else:
            covered += 1
    assert covered / count >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / count)
