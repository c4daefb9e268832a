"""A family in numbers: each stage's spread over seeds, the paired gains, missing results, warnings."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import TypeVar

from raykd.errors import flattened
from raykd.report.read.provenance import warnings_of
from raykd.report.read.run_results import Family, RunResult
from raykd.report.read.search_results import SearchSummary
from raykd.report.read.unplanned import warning_of_unplanned
from raykd.report.stats import pooled
from raykd.report.stats.comparison import Comparison, compare
from raykd.report.stats.imbalance import Imbalance, imbalance_of
from raykd.report.stats.metrics import METRICS, PAIRED_METRICS
from raykd.report.stats.paired_interval import DISTILLED, PairedGain, Spread, paired_gain, pairs_of, spread_of
from raykd.report.stats.tuning import Tuning, tunings_of, warnings_of_selection, warnings_of_tuning
from raykd.spec.stages import STAGES, Stage
from raykd.store.records import Costs, Metrics, Reliability

Value = TypeVar("Value")


@dataclass(frozen=True)
class StageSummary:
    """One stage over its evaluated runs. top1 is in percent on the test split, seconds is the training time per run.

    metrics: on the test split, without top1. val: on the validation split, with top1. costs: the models' costs, one
    record for each Costs.shape: model, device, precision and other conditions. classes, class_top1, confusion,
    reliability: on the test split, over all runs, see pooled.py.
    """

    stage: Stage
    model: str | None
    method: str | None
    parameters: int | None
    num_planned: int
    top1: Spread | None
    seconds: Spread | None
    metrics: Mapping[str, Spread]
    val: Mapping[str, Spread]
    costs: tuple[Costs, ...]
    gpu_seconds: Spread | None
    joules: Spread | None
    classes: tuple[str, ...]
    class_top1: tuple[Spread | None, ...]
    confusion: tuple[tuple[int, ...], ...]
    reliability: Reliability | None


@dataclass(frozen=True)
class FamilySummary:
    """The report's numbers for one plan. gains: by metric, for the metrics that both students have.

    The gain in top-1 of a comparison is that of the experiment's `method`, corrected for all methods. imbalance: only
    for data with unequal classes. tunings: of each compared method and of the baseline.
    """

    family: Family
    stages: tuple[StageSummary, ...]
    gains: Mapping[str, PairedGain]
    missing: tuple[str, ...]
    warnings: tuple[str, ...]
    comparison: Comparison | None = None
    imbalance: Imbalance | None = None
    tunings: tuple[Tuning, ...] = ()

    @property
    def gain(self) -> PairedGain | None:
        """The gain in test top-1, the report's headline."""
        return self.gains.get("top1")

    @property
    def is_searched(self) -> bool:
        """Whether any search has tuned a compared method or the baseline, also if its winner is not used."""
        return any(tuning.num_trials or tuning.unused for tuning in self.tunings)

    @property
    def why_no_gain(self) -> str:
        """A statement of why `gain` is None."""
        if pooled.are_evaluated_alike(self.family.stage("baseline"), self.family.stage("distilled")):
            return "no seed has both a baseline and a distilled result yet"
        return "none between a linear probe (distilled) and a classifier (baseline)"

    @property
    def num_test_images(self) -> int | None:
        """Number of test images, if all evaluated runs agree on it."""
        return _common(run.test.num_images for run in self.family.all_runs if run.test)

    @property
    def name(self) -> str:
        """The family's name."""
        return self.family.name

    def stage(self, stage: Stage) -> StageSummary:
        """Return the summary of one stage, also of a stage without runs."""
        return self.stages[STAGES.index(stage)]

    @property
    def share_of_gap(self) -> float | None:
        """The gain in percent of the distance from the baselines of its seeds to the teacher.

        None unless the gain is distinguishable and the teacher is better. Also None for several teachers, because the
        accuracy of their mean logits is not measured, and between a linear probe (teacher) and a classifier (baseline).
        """
        teacher, gain = self.stage("teacher"), self.gain
        if teacher.top1 is None or teacher.num_planned != 1 or gain is None or not gain.is_distinguishable:
            return None
        if not pooled.are_evaluated_alike(self.family.stage("teacher"), self.family.stage("baseline")):
            return None
        distance = teacher.top1.mean - mean(pair.reference for pair in gain.pairs)
        return 100 * gain.spread.mean / distance if distance > 0 else None


def summarize(family: Family, searches: Sequence[SearchSummary] = ()) -> FamilySummary:
    """Return all numbers of one family. searches: all searches of the results folder."""
    stages = tuple(_summarize_stage(stage, family) for stage in STAGES)
    comparison, tunings = compare(family), tunings_of(family, searches)
    return FamilySummary(
        family,
        stages,
        _gains(family, comparison),
        tuple(line for run in family.all_runs for line in _missing(run)),
        (
            *_warning_of_weak_teacher(stages, family),
            *_note_on_probes(stages),
            *warning_of_unplanned(family.unplanned),
            *warnings_of_selection(family, searches),
            *warnings_of_tuning(tunings),
            *warnings_of(family),
            *(warning for run in family.all_runs for warning in run.warnings),
        ),
        comparison,
        imbalance_of(family),
        tunings,
    )


def _warning_of_weak_teacher(stages: tuple[StageSummary, ...], family: Family) -> list[str]:
    teacher, baseline, _ = (stage.top1 for stage in stages)
    is_comparable = pooled.are_evaluated_alike(family.stage("teacher"), family.stage("baseline"))
    if teacher is None or baseline is None or teacher.mean >= baseline.mean or not is_comparable:
        return []
    remedy = "train it longer, or choose a larger one"
    if any(run.record and run.record.configuration.is_imported for run in family.stage("teacher")):
        remedy = (
            "it was imported, so check that its network, its normalization and the order of its classes are those of "
            "its training, or import a better one"
        )
    below = f"below the baseline ({baseline.mean:.2f} %): {remedy}"
    if len(family.stage("teacher")) > 1:  # the accuracy of their mean logits, from which students learn, may be higher
        return [f"the teachers ({teacher.mean:.2f} % on average) are {below}"]
    return [f"the teacher ({teacher.mean:.2f} %) is {below}"]


def _note_on_probes(stages: tuple[StageSummary, ...]) -> list[str]:
    """Return a line that names the stages whose metrics are those of a linear probe, if there are any."""
    probed = [stage.stage for stage in stages if "knn_top1" in stage.metrics]
    if not probed:
        return []
    return [
        f"no classifier: all metrics of {' and '.join(probed)} are those of a linear probe on the embedding, fitted on "
        "the training images; k-NN top-1 is that of the 20 nearest training images"
    ]


def _summarize_stage(stage: Stage, family: Family) -> StageSummary:
    runs = family.stage(stage)
    records = [run.record for run in runs if run.record]
    evaluated = [run for run in runs if run.state == "evaluated"]
    tested = [run.test for run in evaluated if run.test]
    costs = {run.costs.shape: run.costs for run in runs if run.costs}
    return StageSummary(
        stage,
        _common(record.model for record in records) if records else _planned_model(stage, family),
        _common(record.method for record in records) if records else _planned_method(stage, family),
        _common(record.parameters for record in records),
        num_planned=len(runs),
        top1=spread_of([metrics.top1 for metrics in tested]),
        seconds=spread_of([run.record.seconds for run in evaluated if run.record]),
        metrics={name: spread for name, spread in _spreads(tested).items() if name != "top1"},
        val=_spreads([run.val for run in evaluated if run.val]),
        costs=tuple(costs.values()),
        gpu_seconds=spread_of([run.usage.gpu_seconds for run in evaluated if run.usage]),
        joules=spread_of([run.usage.joules for run in evaluated if run.usage and run.usage.joules is not None]),
        classes=pooled.classes_of(tested),
        class_top1=pooled.class_top1(tested),
        confusion=pooled.confusion(tested),
        reliability=pooled.reliability(tested),
    )


def _spreads(results: list[Metrics]) -> dict[str, Spread]:
    """Return the spread of each metric over the runs that have it."""
    values = {name: [result.numbers[name] for result in results if name in result.numbers] for name in METRICS}
    return {name: spread for name, numbers in values.items() if (spread := spread_of(numbers))}


def _planned_model(stage: Stage, family: Family) -> str | None:
    """Return the network of a stage of which no run has started; None if the names of its runs do not have it."""
    method = _planned_method(stage, family)
    return _common(run.planned_model(method) if method else None for run in family.stage(stage))


def _planned_method(stage: Stage, family: Family) -> str | None:
    """Return the method of a stage of which no run has started; None if plan.json does not record it."""
    if not family.stage(stage) or stage != "distilled":
        return "ce" if family.stage(stage) else None
    kind = family.experiment.method.kind
    return None if kind is None else flattened(kind)


def _common(values: Iterable[Value | None]) -> Value | None:
    """Return the value that all known ones agree on; unfinished runs have none yet."""
    distinct = {value for value in values if value is not None}
    return distinct.pop() if len(distinct) == 1 else None


def _gains(family: Family, comparison: Comparison | None) -> dict[str, PairedGain]:
    """Return the gains by metric. In a comparison, that in top-1 is the corrected one of the experiment's method."""
    default = comparison.default if comparison else None
    name = flattened(default.name) if default else DISTILLED
    gains = {metric: gain for metric in PAIRED_METRICS if (gain := _gain(family, metric, name))}
    return gains | ({"top1": default.gain} if default and default.gain else {})


def _gain(family: Family, metric: str, name: str) -> PairedGain | None:
    """Return the gain in `metric`; None without pairs, and between a linear probe and a classifier."""
    if not pooled.are_evaluated_alike(family.stage("baseline"), family.stage("distilled")):
        return None
    baseline = pooled.by_seed(family.stage("baseline"), pooled.on_test(metric))
    distilled = pooled.by_seed(family.stage("distilled"), pooled.on_test(metric))
    return paired_gain(pairs_of(baseline, distilled, METRICS[metric].lower_is_better), name)


def _missing(run: RunResult) -> list[str]:
    """Return a line for each result that is planned and not on disk."""
    if run.state != "evaluated":
        return [f"{run.name}: {run.state_in_words}"]
    is_trained_here = run.record is None or run.record.best is None or run.record.best.epoch is not None
    return [f"{run.name}: no history.parquet, so no learning curve"] if is_trained_here and not run.history else []
