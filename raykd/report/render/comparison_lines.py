"""The sentences under a comparison of methods: what its numbers mean, and which gains its seeds can distinguish."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from raykd.errors import flattened, plural
from raykd.report import wording
from raykd.report.stats.comparison import Comparison
from raykd.report.stats.paired_interval import least_gain
from raykd.report.stats.ranking import RankedMethod, Ranking
from raykd.report.stats.significance import FEWEST_SEEDS, LEVEL
from raykd.report.stats.tuning import THE_BASELINE, Tuning

MOST_TIES = 6  # names of methods in one sentence; a dagger marks all of them on the page


def lines_under(comparison: Comparison) -> list[str]:
    """Return the sentences, each with one idea, without capitals and full stops."""
    lines = []
    if comparison.baseline is not None:
        lines.append(f"gains are relative to the baseline, {wording.mean_std(comparison.baseline)} %")
    return [*lines, *_about_gains(comparison), *_about_ranks(comparison), *_about_costs(comparison)]


def highest_mean(comparison: Comparison) -> str:
    """Return which method has the highest mean, its gain, and from which it is not distinguishable.

    '' without a ranking.
    """
    best, ranking = comparison.best, comparison.ranking
    if best is None or ranking is None:
        return ""
    line = wording.best_method(best)
    if len(ranking.seeds) < FEWEST_SEEDS:
        return line
    ties = ranking.tied_with_best
    if not ties:
        return f"{line}; better than every other method"
    if len(ties) == len(ranking.methods) - 1:
        return f"{line}; not distinguishable from any other method"
    shown = listed(ties) if len(ties) <= MOST_TIES else f"{len(ties)} of {len(ranking.methods) - 1} other methods"
    return f"{line}; not distinguishable from {shown}"


def about_tuning(tunings: Sequence[Tuning]) -> list[str]:
    """Return which searches tuned each method and the baseline, and which of them none tuned."""
    untuned = [tuning.name for tuning in tunings if not tuning.num_trials]
    lines = [_about_searches(tuning) for tuning in tunings if tuning.num_trials]
    if len(untuned) == len(tunings):
        lines.append("no method was tuned by a search in this results folder, and neither was the baseline")
    elif untuned:
        lines.append(f"not tuned by a search in this results folder: {listed(untuned)}")
    lines += [
        f"the values of {tuning.name} are not those that won its search ({listed(tuning.unused)})"
        for tuning in tunings
        if tuning.unused
    ]
    recipe = {tuning.name: path for tuning in tunings for path in tuning.fields if path.startswith("student.")}
    if THE_BASELINE in untuned and recipe:
        lines.append(
            f"fields of the student's recipe were searched for {listed(recipe)}, and {THE_BASELINE} has the same recipe"
        )
    return lines


def _about_searches(tuning: Tuning) -> str:
    searches = f"search{'' if len(tuning.searches) == 1 else 'es'} {listed(tuning.searches)}"
    trials = f"{plural(tuning.num_trials, 'trial')} ({plural(tuning.num_epochs, 'epoch')})"
    line = f"{trials} over {listed(tuning.fields)} tuned {tuning.name} ({searches})"
    return line + (f"; the trials had other values of {listed(tuning.differing)}" if tuning.differing else "")


def _about_gains(comparison: Comparison) -> Iterator[str]:
    num_seeds = max((len(method.gain.pairs) for method in comparison.methods if method.gain), default=0)
    if num_seeds == 0:
        return
    if unpaired := {seed for method in comparison.methods for seed in method.by_seed} - comparison.baselines.keys():
        yield f"gains leave out seeds without a baseline: {listed(sorted(unpaired))}"
    if num_seeds == 1:
        yield "one seed: no interval and no test, so a gain may be chance"
        return
    count = len(comparison.methods)
    yield "each interval is for one method alone"
    yield f"p-values are those of paired t-tests over seeds; Holm p is corrected for all {count} methods"
    yield (
        f"of {count} methods without any effect, {LEVEL / 2 * count:.2g} would look better than the baseline by "
        "chance, and as many worse"
    )
    if num_seeds < FEWEST_SEEDS:
        yield f"n = {num_seeds}: too few seeds for a verdict"
        return
    yield _differing_methods(comparison)
    yield (
        f"at n = {num_seeds}, the largest of {count} gains is distinguishable if it is at least "
        f"{least_gain(num_seeds, count):.1f} standard deviations of its paired differences"
    )
    yield f"for one method alone, {least_gain(num_seeds):.1f} standard deviations suffice"


def _differing_methods(comparison: Comparison) -> str:
    """Return which methods differ from the baseline, and in which direction."""
    differing = [(method.name, method.gain) for method in comparison.methods if method.differs and method.gain]
    return below_level({name: gain.spread.mean > 0 for name, gain in differing})


def below_level(differing: Mapping[str, bool]) -> str:
    """Return 'Holm p is below 0.05 for crd (better); at (worse)', or that none is. differing: {method: is better}."""
    sides = {
        "better": [name for name, is_better in differing.items() if is_better],
        "worse": [name for name, is_better in differing.items() if not is_better],
    }
    parts = [f"{listed(names)} ({side})" for side, names in sides.items() if names]
    return f"Holm p is below {LEVEL:g} for {'; '.join(parts)}" if parts else f"no Holm p is below {LEVEL:g}"


def _about_ranks(comparison: Comparison) -> Iterator[str]:
    ranking, seeds = comparison.ranking, [set(method.by_seed) for method in comparison.methods if method.by_seed]
    if ranking is None:
        if len(seeds) > 1:
            yield "no ranks: no seed has a result of each of these methods yet"
        return
    if set(ranking.seeds) != set.union(*seeds):
        yield f"ranks use the seeds that each method with a result has: {listed(ranking.seeds)}"
    if len(ranking.seeds) < FEWEST_SEEDS:
        yield f"ranks require at least {FEWEST_SEEDS} seeds"
        return
    if all(pair.is_tie for pair in ranking.pairs):
        yield f"no method is distinguishable from another at n = {len(ranking.seeds)}"
        return
    yield "ranks come from paired t-tests of all pairs of methods, corrected by Holm, level 5 %"
    yield _example_of(ranking)


def _example_of(ranking: Ranking) -> str:
    """Return what the rank of one method in the table means, preferably of one that is a range in the middle."""
    count = len(ranking.methods)

    def interest(ranked: RankedMethod) -> tuple[bool, int]:
        return ranked.first < ranked.last, (ranked.first > 1) + (ranked.last < count)

    example = max(ranking.methods, key=interest)
    better, worse = example.first - 1, count - example.last
    methods = f"{better} methods are" if better > 1 else "1 method is" if better else "no method is"
    return (
        f"rank {example.rank} of {flattened(example.name)}: {methods} shown to be better, and {worse or 'none'} to be "
        "worse"
    )


def _about_costs(comparison: Comparison) -> Iterator[str]:
    if any(method.time for method in comparison.methods):
        yield "time is the training time over that of the baseline of the same seed, median over seeds"
        if comparison.num_sharing:
            yield (
                f"{comparison.num_sharing} of {comparison.num_timed} runs trained while another one used the same "
                "machine, so times also depend on the others"
            )
    if comparison.has_memory:
        yield "memory is the peak GPU memory over that of the baseline of the same seed, median over seeds"


def listed(names: Iterable[object]) -> str:
    """Return 'kd, crd', each name on one printable line."""
    return ", ".join(flattened(str(name)) for name in names)
