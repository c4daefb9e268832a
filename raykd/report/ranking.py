"""k methods in order, with the ranks that each could have: 1, or 1-3 where three cannot be told apart.

All k (k - 1) / 2 pairs are compared by the paired t-test over the seeds that all methods have, corrected by Holm
(1979). a ties with b where the corrected p is 0.05 or more; uncorrected that says that a - b's interval includes 0.

    first rank of a = 1 + number of methods that are better than a and do not tie with it
    last rank of a  = k - number of methods that are worse than a and do not tie with it

With 95 % confidence all k true ranks lie in these ranges at once (Mogstad, Romano, Shaikh and Wilhelm 2024, Review of
Economic Studies 91, 476-518, doi:10.1093/restud/rdad006: ranks from pairwise comparisons that hold together). Ties are
not transitive: a and b may tie, b and c too, and a still be better than c.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

from raykd.report.significance import holm
from raykd.report.statistics import PairedGain, Spread, paired_gain, pairs_of, spread_of

LEVEL = 0.05


@dataclass(frozen=True)
class Compared:
    """`better` against `worse`, by their means. p: of the paired t-test; p_holm: for all pairs together.

    Both are None of one seed, of which nothing can be said.
    """

    better: str
    worse: str
    gain: PairedGain
    p: float | None
    p_holm: float | None

    @property
    def is_tie(self) -> bool:
        """Whether the two cannot be told apart."""
        return self.p_holm is None or self.p_holm >= LEVEL

    @property
    def verdict(self) -> str:
        """In words, as of one gain."""
        num_seeds = len(self.gain.pairs)
        if self.p_holm is None:
            return "one seed: no interval"
        if self.is_tie:
            return f"not distinguishable at n = {num_seeds}"
        return f"{self.better} is better than {self.worse} at n = {num_seeds}"


@dataclass(frozen=True)
class Ranked:
    """A method and the ranks, from 1, that it could have."""

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
    """Methods, the best mean first, and what was compared; over `seeds`, those that all have."""

    seeds: tuple[int, ...]
    methods: tuple[Ranked, ...]
    compared: tuple[Compared, ...]


def rank(values: Mapping[str, Mapping[int, float]], less_is_better: bool = False) -> Ranking | None:
    """Rank methods by {name: {seed: value}}; None where fewer than two methods, or no seed that all have."""
    seeds = sorted(set.intersection(*(set(of_seed) for of_seed in values.values()))) if len(values) > 1 else []
    if not seeds:
        return None
    common = {name: {seed: of_seed[seed] for seed in seeds} for name, of_seed in values.items()}
    spreads = {name: spread for name in common if (spread := spread_of(list(common[name].values())))}
    order = sorted(spreads, key=lambda name: (spreads[name].mean if less_is_better else -spreads[name].mean, name))
    gains: list[tuple[str, str, PairedGain]] = []
    for better, worse in combinations(order, 2):
        gain = paired_gain(pairs_of(common[worse], common[better], less_is_better), better)
        assert gain is not None
        gains.append((better, worse, gain))
    known = [p for _, _, gain in gains if (p := gain.t_test_p) is not None]
    adjusted = holm(known) if len(known) == len(gains) else [None] * len(gains)
    compared = tuple(
        Compared(better, worse, gain, gain.t_test_p, p_holm)
        for (better, worse, gain), p_holm in zip(gains, adjusted, strict=True)
    )
    apart = [(one.better, one.worse) for one in compared if not one.is_tie]
    methods = tuple(
        Ranked(
            name,
            spreads[name],
            first=1 + sum(worse == name for _, worse in apart),
            last=len(order) - sum(better == name for better, _ in apart),
        )
        for name in order
    )
    return Ranking(tuple(seeds), methods, compared)
