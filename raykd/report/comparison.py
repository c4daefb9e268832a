"""Methods side by side: each one's test top1, gain over the baseline, rank, and what a run of it takes.

    gain     distilled - baseline, paired by seed, with its 95 % interval
    rank     see ranking.py: 1-3 is one of the first three, which the seeds cannot tell apart
    time     seconds of training over the baseline's of the same seed, their median; memory: the runs' peaks likewise

Every method is shown, and none is picked by what is shown here, so the test set serves all of them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from raykd.report.pooled import by_seed, on_test
from raykd.report.ranking import Ranking, rank
from raykd.report.records import Family, RunResult
from raykd.report.statistics import PairedGain, Spread, paired_gain, pairs_of, spread_of

TOP1 = on_test("top1")


@dataclass(frozen=True)
class MethodSummary:
    """One method over its evaluated runs; top1 in percent on the test set.

    rank: '1' or '1-3', None while it has no result. time, memory: times the baseline's; None where not known.
    """

    name: str
    num_planned: int
    top1: Spread | None
    by_seed: Mapping[int, float]
    gain: PairedGain | None
    rank: str | None
    time: float | None
    memory: float | None


@dataclass(frozen=True)
class Comparison:
    """Methods by their mean, the best first; those without a result last, as they were named."""

    methods: tuple[MethodSummary, ...]
    ranking: Ranking | None
    baseline: Spread | None


def compare(family: Family) -> Comparison | None:
    """None of a family in which nothing is compared."""
    if not family.compared:
        return None
    baselines = family.stage("baseline")
    scores = {name: by_seed(runs, TOP1) for name, runs in family.compared.items()}
    ranking = rank({name: found for name, found in scores.items() if found})
    ranks = {ranked.name: ranked.rank for ranked in ranking.methods} if ranking else {}
    methods = [_summarize(name, runs, baselines, ranks.get(name)) for name, runs in family.compared.items()]
    methods.sort(key=lambda method: -method.top1.mean if method.top1 else float("inf"))
    return Comparison(tuple(methods), ranking, spread_of(list(by_seed(baselines, TOP1).values())))


def _summarize(
    name: str, runs: Sequence[RunResult], baselines: Sequence[RunResult], rank_in_words: str | None
) -> MethodSummary:
    scores = by_seed(runs, TOP1)
    return MethodSummary(
        name,
        len(runs),
        spread_of(list(scores.values())),
        scores,
        paired_gain(pairs_of(by_seed(baselines, TOP1), scores), name),
        rank_in_words,
        _ratio(runs, baselines, lambda run: run.record.seconds if run.record else None),
        _ratio(runs, baselines, lambda run: run.record.peak_memory_bytes if run.record else None),
    )


def _ratio(
    mine: Sequence[RunResult], others: Sequence[RunResult], of: Callable[[RunResult], float | None]
) -> float | None:
    pairs = pairs_of(by_seed(others, of), by_seed(mine, of))
    ratios = [pair.value / pair.reference for pair in pairs if pair.value and pair.reference]
    return median(ratios) if ratios else None
