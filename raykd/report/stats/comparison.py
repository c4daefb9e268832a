"""Methods side by side: test top-1, gain over the baseline, rank, training time and memory of each.

    gain     distilled - baseline, paired by seed, with the 95 % interval for this method alone; none between a linear
             probe and a classifier
    p        of the paired t-test behind the interval; p_holm: corrected by Holm (1979) for all methods compared
    rank     see ranking.py; 1-3 is one of the first three, which the seeds cannot distinguish
    time     median ratio of training seconds to those of the baseline of the same seed; memory: of peaks, likewise

All methods are shown and none is selected here, so the test split may be used for all of them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from raykd.report.read.records import Family, RunResult
from raykd.report.stats.paired_interval import PairedGain, Spread, paired_gain, pairs_of, spread_of
from raykd.report.stats.pooled import are_evaluated_alike, by_seed, on_test
from raykd.report.stats.ranking import Ranking, rank
from raykd.report.stats.significance import LEVEL, holm

TOP1 = on_test("top1")


@dataclass(frozen=True)
class MethodSummary:
    """One method over its evaluated runs. top1 is in percent on the test split.

    published: the accuracy in spec/published.py of the family's pair of networks, in percent; None if there is none.
    rank: '1' or '1-3', None without a result. p_holm: None where the gain has no test, see PairedGain.t_test_p.
    time, memory: relative to the baseline; None if not known.
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
    published: float | None = None

    @property
    def p(self) -> float | None:
        """The p-value of the gain's t-test, not corrected."""
        return self.gain.t_test_p if self.gain else None

    @property
    def differs(self) -> bool:
        """Whether the method differs from the baseline after Holm's correction."""
        return self.p_holm is not None and self.p_holm < LEVEL


@dataclass(frozen=True)
class Comparison:
    """Methods by rank, the best first; those without a result last. baselines: {seed: test top-1}."""

    methods: tuple[MethodSummary, ...]
    ranking: Ranking | None
    baselines: Mapping[int, float]

    @property
    def has_published(self) -> bool:
        """Whether any method has a published accuracy."""
        return any(method.published is not None for method in self.methods)

    @property
    def baseline(self) -> Spread | None:
        """The spread of the baseline over its evaluated seeds."""
        return spread_of(list(self.baselines.values()))


def compare(family: Family) -> Comparison | None:
    """Return the comparison of a family's methods; None if its plan compares none."""
    if not family.compared:
        return None
    baselines = family.stage("baseline")
    top1 = {name: by_seed(runs, TOP1) for name, runs in family.compared.items()}
    ranking = rank({name: values for name, values in top1.items() if values})
    ranks = {ranked.name: ranked.rank for ranked in ranking.methods} if ranking else {}
    reference = by_seed(baselines, TOP1)
    published = family.published.top1 if family.published else {}
    is_comparable = are_evaluated_alike(baselines, *family.compared.values())
    gains = {
        name: paired_gain(pairs_of(reference, values), name) if is_comparable else None for name, values in top1.items()
    }
    adjusted = holm([gain.t_test_p if gain else None for gain in gains.values()])
    methods = [
        MethodSummary(
            name,
            len(runs),
            spread_of(list(top1[name].values())),
            top1[name],
            gains[name],
            p_holm,
            ranks.get(name),
            _ratio(runs, baselines, lambda run: run.record.seconds if run.record else None),
            _ratio(runs, baselines, lambda run: run.record.peak_memory_bytes if run.record else None),
            published.get(name),
        )
        for (name, runs), p_holm in zip(family.compared.items(), adjusted, strict=True)
    ]
    order = {name: place for place, name in enumerate(ranks)}
    methods.sort(key=lambda method: (order.get(method.name, len(order)), -method.top1.mean if method.top1 else 0.0))
    return Comparison(tuple(methods), ranking, reference)


def _ratio(
    runs: Sequence[RunResult], baselines: Sequence[RunResult], value_of: Callable[[RunResult], float | None]
) -> float | None:
    """Return the median ratio of a value to that of the baseline with the same seed."""
    pairs = pairs_of(by_seed(baselines, value_of), by_seed(runs, value_of))
    ratios = [pair.value / pair.reference for pair in pairs if pair.value and pair.reference]
    return median(ratios) if ratios else None
