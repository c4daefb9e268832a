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
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import fmean

from raykd.report.stats.paired_interval import PairedGain, paired_gain, pairs_of
from raykd.report.stats.significance import FEWEST_SEEDS, LEVEL, holm


@dataclass(frozen=True)
class MethodPair:
    """Two methods, ordered by their means. gain: of the better one; its p_holm is corrected for all pairs."""

    better: str
    worse: str
    gain: PairedGain

    @property
    def is_tie(self) -> bool:
        """Whether the two cannot be distinguished; always with fewer than FEWEST_SEEDS seeds."""
        return self.gain.p_holm is None or self.gain.p_holm >= LEVEL or len(self.gain.pairs) < FEWEST_SEEDS

    @property
    def verdict(self) -> str:
        """The result in words, as for a gain."""
        num_seeds = len(self.gain.pairs)
        if not self.is_tie:
            return f"{self.better} is better than {self.worse} at n = {num_seeds}"
        has_test = self.gain.p_holm is not None and num_seeds >= FEWEST_SEEDS
        return f"not distinguishable at n = {num_seeds}" if has_test else self.gain.verdict


@dataclass(frozen=True)
class RankedMethod:
    """A method and the range of its possible ranks, from 1."""

    name: str
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


def rank(values: Mapping[str, Mapping[int, float]]) -> Ranking | None:
    """Rank methods by {name: {seed: value}}; None with fewer than two methods, or without a common seed."""
    seeds = sorted(set.intersection(*(set(by_seed) for by_seed in values.values()))) if len(values) > 1 else []
    if not seeds:
        return None
    common = {name: {seed: by_seed[seed] for seed in seeds} for name, by_seed in values.items()}
    order = sorted(common, key=lambda name: (-fmean(common[name].values()), name))
    pairs = _compare(common, order)
    methods = tuple(
        RankedMethod(
            name,
            first=1 + sum(pair.worse == name and not pair.is_tie for pair in pairs),
            last=len(order) - sum(pair.better == name and not pair.is_tie for pair in pairs),
        )
        for name in order
    )
    return Ranking(tuple(seeds), methods, pairs)


def _compare(values: Mapping[str, Mapping[int, float]], order: Sequence[str]) -> tuple[MethodPair, ...]:
    pairs = []
    for better, worse in combinations(order, 2):
        gain = paired_gain(pairs_of(values[worse], values[better]), better)
        assert gain is not None
        pairs.append(MethodPair(better, worse, gain))
    adjusted = holm([pair.gain.t_test_p for pair in pairs])
    return tuple(
        replace(pair, gain=replace(pair.gain, p_holm=p_holm)) for pair, p_holm in zip(pairs, adjusted, strict=True)
    )
