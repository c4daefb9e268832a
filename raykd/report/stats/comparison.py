"""Methods side by side: each one's test top1, gain over the baseline, rank, and what a run of it takes.

    gain     distilled - baseline, paired by seed, with its 95 % interval, which is of that method by itself
    p        of the paired t-test behind the interval; p_holm: corrected by Holm (1979) for all methods compared
    rank     see ranking.py: 1-3 is one of the first three, which the seeds cannot tell apart
    time     seconds of training over the baseline's of the same seed, their median; memory: the runs' peaks likewise

Every method is shown, and none is picked by what is shown here, so the test set serves all of them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from raykd.report.read.records import Family, RunResult
from raykd.report.stats.pooled import by_seed, on_test
from raykd.report.stats.ranking import Ranking, rank
from raykd.report.stats.significance import LEVEL, holm
from raykd.report.stats.statistics import PairedGain, Spread, paired_gain, pairs_of, spread_of

TOP1 = on_test("top1")


@dataclass(frozen=True)
class MethodSummary:
    """One method over its evaluated runs; top1 in percent on the test set.

    rank: '1' or '1-3', None while it has no result. p_holm: None where the gain has no test, see PairedGain.t_test_p.
    time, memory: times the baseline's; None where not known.
    """

    name: str
    num_planned: int
    top1: Spread | None
    by_seed: Mapping[int, float]
    gain: PairedGain | None
    p_holm: float | None
    rank: str | None
    time: float | None
    memory: float | None

    @property
    def p(self) -> float | None:
        """Of the gain's t-test, not corrected."""
        return self.gain.t_test_p if self.gain else None

    @property
    def differs(self) -> bool:
        """Whether it is another than the baseline, the number of methods accounted for."""
        return self.p_holm is not None and self.p_holm < LEVEL


@dataclass(frozen=True)
class Comparison:
    """Methods as they are ranked, the best first; those without a result last, as they were named.

    baselines: seed -> test top1.
    """

    methods: tuple[MethodSummary, ...]
    ranking: Ranking | None
    baselines: Mapping[int, float]

    @property
    def baseline(self) -> Spread | None:
        """Over its evaluated seeds."""
        return spread_of(list(self.baselines.values()))


def compare(family: Family) -> Comparison | None:
    """None of a family in which nothing is compared."""
    if not family.compared:
        return None
    baselines = family.stage("baseline")
    scores = {name: by_seed(runs, TOP1) for name, runs in family.compared.items()}
    ranking = rank({name: found for name, found in scores.items() if found})
    ranks = {ranked.name: ranked.rank for ranked in ranking.methods} if ranking else {}
    reference = by_seed(baselines, TOP1)
    gains = {name: paired_gain(pairs_of(reference, of_method), name) for name, of_method in scores.items()}
    adjusted = holm([gain.t_test_p if gain else None for gain in gains.values()])
    methods = [
        MethodSummary(
            name,
            len(runs),
            spread_of(list(scores[name].values())),
            scores[name],
            gains[name],
            p_holm,
            ranks.get(name),
            _ratio(runs, baselines, lambda run: run.record.seconds if run.record else None),
            _ratio(runs, baselines, lambda run: run.record.peak_memory_bytes if run.record else None),
        )
        for (name, runs), p_holm in zip(family.compared.items(), adjusted, strict=True)
    ]
    order = {name: place for place, name in enumerate(ranks)}
    methods.sort(key=lambda method: (order.get(method.name, len(order)), -method.top1.mean if method.top1 else 0.0))
    return Comparison(tuple(methods), ranking, reference)


def _ratio(
    mine: Sequence[RunResult], others: Sequence[RunResult], of: Callable[[RunResult], float | None]
) -> float | None:
    pairs = pairs_of(by_seed(others, of), by_seed(mine, of))
    ratios = [pair.value / pair.reference for pair in pairs if pair.value and pair.reference]
    return median(ratios) if ratios else None
