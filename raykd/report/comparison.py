"""Methods side by side: each one's test top1, gain over the baseline, rank, and what a run of it takes.

    gain     distilled - baseline, paired by seed, with its 95 % interval
    rank     see ranking.py: 1-3 is one of the first three, which the seeds cannot tell apart
    time     seconds of training over the baseline's of the same seed, their median; memory: the runs' peaks likewise

Every method is shown, and none is picked by what is shown here, so the test set serves all of them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from raykd.report.ranking import Ranking, rank
from raykd.report.records import Family, RunResult
from raykd.report.statistics import Pair, PairedGain, Spread, paired_gain, spread_of


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
    baselines = _by_seed(family.stage("baseline"))
    scores = {name: _top1(_by_seed(runs)) for name, runs in family.compared.items()}
    ranking = rank({name: found for name, found in scores.items() if found})
    ranks = {ranked.name: ranked.rank for ranked in ranking.methods} if ranking else {}
    methods = [
        _summarize(name, runs, scores[name], baselines, ranks.get(name)) for name, runs in family.compared.items()
    ]
    methods.sort(key=lambda method: -method.top1.mean if method.top1 else float("inf"))
    return Comparison(tuple(methods), ranking, spread_of(list(_top1(baselines).values())))


def _summarize(
    name: str,
    runs: Sequence[RunResult],
    scores: Mapping[int, float],
    baselines: Mapping[int, RunResult],
    rank_in_words: str | None,
) -> MethodSummary:
    reference = _top1(baselines)
    pairs = [Pair(seed, reference[seed], scores[seed]) for seed in sorted(reference.keys() & scores.keys())]
    mine = _by_seed(runs)
    return MethodSummary(
        name,
        len(runs),
        spread_of(list(scores.values())),
        scores,
        paired_gain(pairs, name),
        rank_in_words,
        _ratio(mine, baselines, lambda run: run.record.seconds if run.record else None),
        _ratio(mine, baselines, lambda run: run.record.peak_memory_bytes if run.record else None),
    )


def _by_seed(runs: Sequence[RunResult]) -> dict[int, RunResult]:
    """Evaluated runs alone."""
    return {run.record.seed: run for run in runs if run.record and run.score}


def _top1(runs: Mapping[int, RunResult]) -> dict[int, float]:
    return {seed: run.score.top1 for seed, run in runs.items() if run.score}


def _ratio(
    mine: Mapping[int, RunResult], others: Mapping[int, RunResult], of: Callable[[RunResult], float | None]
) -> float | None:
    found = [(of(mine[seed]), of(others[seed])) for seed in sorted(mine.keys() & others.keys())]
    ratios = [value / reference for value, reference in found if value and reference]
    return median(ratios) if ratios else None
