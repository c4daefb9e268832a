"""The sentences under a comparison of methods: what its numbers mean, and which gains its seeds can distinguish."""

from collections.abc import Iterable, Iterator

from raykd.errors import flattened
from raykd.report import wording
from raykd.report.stats.comparison import Comparison
from raykd.report.stats.paired_interval import least_gain
from raykd.report.stats.ranking import Ranking
from raykd.report.stats.significance import LEVEL, fewest_pairs, smallest_p


def lines_under(comparison: Comparison) -> list[str]:
    """Return the sentences, without capitals and full stops."""
    lines = []
    if comparison.baseline is not None:
        lines.append(f"gain, time and memory: relative to the baseline, {wording.mean_std(comparison.baseline)} %")
    return [*lines, *_about_gains(comparison), *_about_ranks(comparison)]


def _about_gains(comparison: Comparison) -> Iterator[str]:
    num_seeds = max((len(method.gain.pairs) for method in comparison.methods if method.gain), default=0)
    if num_seeds == 0:
        return
    if unpaired := {seed for method in comparison.methods for seed in method.by_seed} - comparison.baselines.keys():
        yield f"gains leave out seeds without a baseline: {_listed(sorted(unpaired))}"
    if num_seeds == 1:
        yield "one seed: no interval and no test, so a gain may be chance"
        return
    count = len(comparison.methods)
    yield (
        f"each interval is for one method alone: of {count} methods without any effect, {LEVEL / 2 * count:.2g} "
        "would look better than the baseline by chance, and as many worse"
    )
    yield f"Holm p: paired t-test, corrected for all {count} methods; {_differing_methods(comparison)}"
    yield (
        f"with n = {num_seeds}, the largest gain among {count} methods can be distinguished from chance if it is at "
        f"least {least_gain(num_seeds, count):.1f} times the standard deviation of its paired differences; for one "
        f"method alone, {least_gain(num_seeds):.1f} times; the smallest p of an exact test is "
        f"{wording.p_value(smallest_p(num_seeds))}; p < {LEVEL:g} requires {fewest_pairs()} seeds, or "
        f"{fewest_pairs(LEVEL / count)} among {count} methods"
    )


def _differing_methods(comparison: Comparison) -> str:
    """Return which methods differ from the baseline, and in which direction."""
    differing = [(method.name, method.gain) for method in comparison.methods if method.differs and method.gain]
    sides = {
        "better": [name for name, gain in differing if gain.spread.mean > 0],
        "worse": [name for name, gain in differing if gain.spread.mean < 0],
    }
    parts = [f"{_listed(names)} ({side})" for side, names in sides.items() if names]
    return f"below {LEVEL:g}: {'; '.join(parts)}" if parts else f"none is below {LEVEL:g}"


def _about_ranks(comparison: Comparison) -> Iterator[str]:
    ranking, seeds = comparison.ranking, [set(method.by_seed) for method in comparison.methods if method.by_seed]
    if ranking is None:
        if len(seeds) > 1:
            yield "no ranks: no seed has a result of each of these methods yet"
        return
    if set(ranking.seeds) != set.union(*seeds):
        yield f"ranks use the seeds that each method with a result has: {_listed(ranking.seeds)}"
    if len(ranking.seeds) == 1:
        yield "ranking requires at least two seeds"
        return
    yield (
        "a rank such as 2-4 of 9 is a range: 1 method is shown to be better and 5 are shown to be worse, "
        "by paired t-tests of all pairs over seeds, corrected by Holm, level 5 %"
    )
    yield _about_the_best(ranking)


def _about_the_best(ranking: Ranking) -> str:
    best, at_seeds = flattened(ranking.best), f"at n = {len(ranking.seeds)}"
    if all(pair.is_tie for pair in ranking.pairs):
        return f"no method is distinguishable from another {at_seeds}"
    if ranking.tied_with_best:
        return f"not distinguishable from {best} {at_seeds}: {_listed(ranking.tied_with_best)}"
    return f"{best} is better than every other {at_seeds}"


def _listed(names: Iterable[object]) -> str:
    return ", ".join(flattened(str(name)) for name in names)
