"""Ranks of k methods: 1, or 1-3 where three methods cannot be distinguished.

All k (k - 1) / 2 pairs are compared by the paired t-test over the seeds that all methods have, corrected by Holm
(1979). a and b tie if the corrected p is at least 0.05. (An uncorrected p of at least 0.05 means that the interval of
a - b includes 0.)

    first rank of a = 1 + number of methods that are better than a and do not tie with it
    last rank of a  = k - number of methods that are worse than a and do not tie with it

With 95 % confidence all k true ranks lie in these ranges together (Mogstad, Romano, Shaikh and Wilhelm 2024, Review of
Economic Studies 91, 476-518, doi:10.1093/restud/rdad006: ranks from simultaneous pairwise comparisons). Holm's
adjusted p also bounds how often the worse of two methods is reported as better, but this is proven only for independent
tests (significance.py). Pairs with a common method are dependent, so tests/report/test_ranking.py simulates the
coverage. Ties are not transitive: a may tie with b, and b with c, while a is better than c. "Better" is
transitive, unless a - c is the same at every seed and so has no test: the deviation of a - c is at most the sum of
those of a - b and b - c, so its t is never below both of theirs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from raykd.report.stats.paired_interval import PairedGain, Spread, paired_gain, pairs_of, spread_of
from raykd.report.stats.significance import FEWEST_SEEDS, LEVEL, holm


@dataclass(frozen=True)
class MethodPair:
    """Two methods, ordered by their means. p: of the paired t-test; p_holm: corrected for all pairs.

    Both are None with one seed, or with the same difference at every seed.
    """

    better: str
    worse: str
    gain: PairedGain
    p: float | None
    p_holm: float | None

    @property
    def is_tie(self) -> bool:
        """Whether the two cannot be distinguished; always with fewer than FEWEST_SEEDS seeds."""
        return self.p_holm is None or self.p_holm >= LEVEL or len(self.gain.pairs) < FEWEST_SEEDS

    @property
    def verdict(self) -> str:
        """The result in words, as for a gain."""
        num_seeds = len(self.gain.pairs)
        if not self.is_tie:
            return f"{self.better} is better than {self.worse} at n = {num_seeds}"
        has_test = self.p is not None and num_seeds >= FEWEST_SEEDS
        return f"not distinguishable at n = {num_seeds}" if has_test else self.gain.verdict


@dataclass(frozen=True)
class RankedMethod:
    """A method and the range of its possible ranks, from 1."""

    name: str
    spread: Spread
    first: int
    last: int

    @property
    def rank(self) -> str:
        """'1' or '1-3'."""
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


@dataclass(frozen=True)
class Ranking:
    """Methods, the best mean first, and all pairs, over the `seeds` that all methods have."""

    seeds: tuple[int, ...]
    methods: tuple[RankedMethod, ...]
    pairs: tuple[MethodPair, ...]

    @property
    def best(self) -> str:
        """The name of the method with the best mean."""
        return self.methods[0].name

    @property
    def tied_with_best(self) -> tuple[str, ...]:
        """Names of the methods that cannot be distinguished from the best one."""
        return tuple(pair.worse for pair in self.pairs if pair.better == self.best and pair.is_tie)


def rank(values: Mapping[str, Mapping[int, float]], lower_is_better: bool = False) -> Ranking | None:
    """Rank methods by {name: {seed: value}}; None with fewer than two methods, or without a common seed."""
    seeds = sorted(set.intersection(*(set(by_seed) for by_seed in values.values()))) if len(values) > 1 else []
    if not seeds:
        return None
    common = {name: {seed: by_seed[seed] for seed in seeds} for name, by_seed in values.items()}
    spreads = {name: spread for name in common if (spread := spread_of(list(common[name].values())))}
    order = sorted(spreads, key=lambda name: (spreads[name].mean if lower_is_better else -spreads[name].mean, name))
    pairs = _compare(common, order, lower_is_better)
    methods = tuple(
        RankedMethod(
            name,
            spreads[name],
            first=1 + sum(pair.worse == name and not pair.is_tie for pair in pairs),
            last=len(order) - sum(pair.better == name and not pair.is_tie for pair in pairs),
        )
        for name in order
    )
    return Ranking(tuple(seeds), methods, pairs)


def _compare(
    values: Mapping[str, Mapping[int, float]], order: Sequence[str], lower_is_better: bool
) -> tuple[MethodPair, ...]:
    gains: list[tuple[str, str, PairedGain]] = []
    for better, worse in combinations(order, 2):
        gain = paired_gain(pairs_of(values[worse], values[better], lower_is_better), better)
        assert gain is not None
        gains.append((better, worse, gain))
    adjusted = holm([gain.t_test_p for _, _, gain in gains])
    return tuple(
        MethodPair(better, worse, gain, gain.t_test_p, p_holm)
        for (better, worse, gain), p_holm in zip(gains, adjusted, strict=True)
    )
