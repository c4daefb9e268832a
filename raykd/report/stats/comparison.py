"""Methods side by side: test top-1, gain over the baseline, rank, training time and memory of each.

    gain     distilled - baseline, paired by seed, with the 95 % interval for this method alone; none between a linear
             probe and a classifier
    p        of the paired t-test behind the interval; p_holm: corrected by Holm (1979) for all methods compared
    rank     see ranking.py; 1-3 is one of the first three, which the seeds cannot distinguish
    time     median ratio of training seconds to those of the baseline of the same seed, with the range over seeds
    memory   likewise of peak GPU memory; none on CPUs, where the peak is that of the whole process

All methods are shown and none is selected here, so the test split may be used for all of them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

from raykd.errors import flattened
from raykd.report.read.provenance import flatten
from raykd.report.read.run_results import Family, RunResult
from raykd.report.stats.paired_interval import PairedGain, Spread, paired_gain, pairs_of, spread_of
from raykd.report.stats.pooled import are_evaluated_alike, by_seed, on_test
from raykd.report.stats.ranking import Ranking, rank
from raykd.report.stats.shared_machine import count_sharing
from raykd.report.stats.significance import holm

TOP1 = on_test("top1")


@dataclass(frozen=True)
class Ratio:
    """The median over seeds of a value relative to the baseline of the same seed, and the range over seeds."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class MethodSummary:
    """One method over its evaluated runs. top1 is in percent on the test split.

    published: the accuracy in spec/published.py of the family's pair of networks, in percent; None if there is none.
    rank: '1' or '1-3', None without a result. is_best: see Comparison.best. p_holm: None where the gain has no test,
    see PairedGain.t_test_p. time, memory: relative to the baseline; None if not known. hyperparameters: {field of the
    method: values in its started runs, as text}.
    """

    name: str
    num_planned: int
    top1: Spread | None
    by_seed: Mapping[int, float]
    gain: PairedGain | None
    rank: str | None
    is_best: bool
    is_tied_with_best: bool
    time: Ratio | None
    memory: Ratio | None
    published: float | None = None
    hyperparameters: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def p_holm(self) -> float | None:
        """The p-value of the gain's t-test, corrected for all methods."""
        return self.gain.p_holm if self.gain else None

    @property
    def p(self) -> float | None:
        """The p-value of the gain's t-test, not corrected."""
        return self.gain.t_test_p if self.gain else None

    @property
    def differs(self) -> bool:
        """Whether the method differs from the baseline after Holm's correction."""
        return self.gain is not None and self.gain.is_distinguishable


@dataclass(frozen=True)
class Comparison:
    """Methods by rank, the best first; those without a result last. baselines: {seed: test top-1}.

    default: the experiment's `method`, None if it is not among them. num_timed: the runs that have ended.
    num_sharing: how many of these ran at the same time as another one of them on the same machine.
    """

    methods: tuple[MethodSummary, ...]
    ranking: Ranking | None
    baselines: Mapping[int, float]
    default: MethodSummary | None = None
    num_timed: int = 0
    num_sharing: int = 0

    @property
    def best(self) -> MethodSummary | None:
        """The method with the highest mean over the seeds that all methods have; None without a ranking."""
        return next((method for method in self.methods if method.is_best), None)

    @property
    def has_memory(self) -> bool:
        """Whether the memory of any method is known."""
        return any(method.memory is not None for method in self.methods)

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
    published = family.published.top1 if family.published else {}
    gains = _gains(family, top1)
    methods = [
        MethodSummary(
            name,
            len(runs),
            spread_of(list(top1[name].values())),
            top1[name],
            gains[name],
            ranks.get(name),
            ranking is not None and name == ranking.best,
            ranking is not None and name in ranking.tied_with_best,
            _ratio(runs, baselines, _seconds),
            _ratio(runs, baselines, _gpu_memory),
            published.get(name),
            _hyperparameters(runs),
        )
        for name, runs in family.compared.items()
    ]
    order = {name: place for place, name in enumerate(ranks)}
    methods.sort(key=lambda method: (order.get(method.name, len(order)), -method.top1.mean if method.top1 else 0.0))
    default = {run.name for run in family.stage("distilled")}
    names = [name for name, runs in family.compared.items() if default and {run.name for run in runs} == default]
    students = [run for run in family.all_runs if run.stage != "teacher"]
    return Comparison(
        tuple(methods),
        ranking,
        by_seed(baselines, TOP1),
        next((method for method in methods if method.name in names), None),
        *count_sharing(students),
    )


def _gains(family: Family, top1: Mapping[str, Mapping[int, float]]) -> dict[str, PairedGain | None]:
    """Return each method's gain with its p-value corrected for all; None without pairs, or against a linear probe."""
    baselines = family.stage("baseline")
    if not are_evaluated_alike(baselines, *family.compared.values()):
        return dict.fromkeys(top1)
    reference = by_seed(baselines, TOP1)
    gains = {name: paired_gain(pairs_of(reference, values), flattened(name)) for name, values in top1.items()}
    corrected = holm([gain.t_test_p if gain else None for gain in gains.values()])
    return {
        name: gain and replace(gain, num_methods=len(gains), p_holm=p_holm)
        for (name, gain), p_holm in zip(gains.items(), corrected, strict=True)
    }


def _hyperparameters(runs: Sequence[RunResult]) -> dict[str, tuple[str, ...]]:
    """Return {field of the method: its distinct values} of the started runs, without its kind."""
    values: dict[str, tuple[str, ...]] = {}
    for run in runs:
        for name, value in flatten(recorded_method(run)).items():
            values[name] = tuple(dict.fromkeys((*values.get(name, ()), value)))
    return values


def recorded_method(run: RunResult) -> Mapping[str, Any]:
    """Return the recorded fields of a run's method, without its kind; {} before it has started."""
    return run.record.configuration.method.hyperparameters if run.record else {}


def _seconds(run: RunResult) -> float | None:
    return run.record.seconds if run.record else None


def _gpu_memory(run: RunResult) -> int | None:
    """Return the peak GPU memory in bytes; None on a CPU, where run.json has the peak of the whole process."""
    on_gpu = run.record is not None and run.record.compute.device.startswith("cuda")
    return run.record.peak_memory_bytes if run.record and on_gpu else None


def _ratio(
    runs: Sequence[RunResult], baselines: Sequence[RunResult], value_of: Callable[[RunResult], float | None]
) -> Ratio | None:
    """Return the ratio of a value to that of the baseline with the same seed."""
    pairs = pairs_of(by_seed(baselines, value_of), by_seed(runs, value_of))
    ratios = [pair.value / pair.reference for pair in pairs if pair.value and pair.reference]
    return Ratio(median(ratios), min(ratios), max(ratios)) if ratios else None
