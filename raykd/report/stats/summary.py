"""A family in numbers: each stage's spread over seeds, the paired gain, what is missing, cautions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from raykd.report.read.provenance import cautions_of
from raykd.report.read.records import COMPARED, MEASURES, Family, RunResult
from raykd.report.stats import pooled
from raykd.report.stats.comparison import Comparison, compare
from raykd.report.stats.statistics import PairedGain, Spread, paired_gain, pairs_of, spread_of
from raykd.spec.stages import REPORT_KEYS, STAGES, Stage
from raykd.store.records import Costs, Metrics, Reliability, RunRecord

Value = TypeVar("Value")


@dataclass(frozen=True)
class StageSummary:
    """One stage over its evaluated runs; top1 in percent on the test set, seconds of training a run.

    measures: all but top1 on the test set, val: all on validation. costs: of its model, once for each device.
    classes, class_top1, confusion, reliability: on the test set, of all runs together, see pooled.py.
    """

    stage: Stage
    model: str | None
    method: str | None
    parameters: int | None
    num_planned: int
    top1: Spread | None
    seconds: Spread | None
    measures: Mapping[str, Spread]
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
    """What the report says of one plan. gains: of each measure that both students have, by its name."""

    family: Family
    stages: tuple[StageSummary, ...]
    gains: Mapping[str, PairedGain]
    missing: tuple[str, ...]
    cautions: tuple[str, ...]
    comparison: Comparison | None = None

    @property
    def gain(self) -> PairedGain | None:
        """Of test top1, which decides."""
        return self.gains.get("top1")

    @property
    def name(self) -> str:
        """The family's name."""
        return self.family.name

    def stage(self, stage: Stage) -> StageSummary:
        """The summary of one stage; it is there even when nothing is planned."""
        return self.stages[STAGES.index(stage)]

    @property
    def share_of_gap(self) -> float | None:
        """Gain over the baseline's distance to the teacher, in percent of it.

        None unless the gain is distinguishable and the teacher is the better one.
        """
        teacher, baseline = self.stage("teacher").top1, self.stage("baseline").top1
        if teacher is None or baseline is None or self.gain is None or not self.gain.is_distinguishable:
            return None
        distance = teacher.mean - baseline.mean
        return 100 * self.gain.spread.mean / distance if distance > 0 else None


def summarize(family: Family, more_cautions: tuple[str, ...] = ()) -> FamilySummary:
    """All numbers of one family. more_cautions: what others know of it."""
    stages = tuple(_summarize_stage(stage, family.stage(stage)) for stage in STAGES)
    return FamilySummary(
        family,
        stages,
        {name: gain for name in COMPARED if (gain := _gain(family, name))},
        tuple(line for run in family.all_runs for line in _missing(run)),
        (
            *_caution_of_weak_teacher(stages, family),
            *more_cautions,
            *cautions_of(family),
            *(caution for run in family.all_runs for caution in run.cautions),
        ),
        compare(family),
    )


def _caution_of_weak_teacher(stages: tuple[StageSummary, ...], family: Family) -> list[str]:
    teacher, baseline, _ = (stage.top1 for stage in stages)
    if teacher is None or baseline is None or teacher.mean >= baseline.mean:
        return []
    remedy = "train it longer, or choose a larger one"
    if any(run.is_imported for run in family.stage("teacher")):
        remedy = (
            "it was imported, so check that its network, its normalization and the order of its classes are those of "
            "its training, or import a better one"
        )
    below = f"the teacher ({teacher.mean:.2f} %) is below the student that learnt without it ({baseline.mean:.2f} %)"
    return [f"{below}: {remedy}"]


def headline(summaries: tuple[FamilySummary, ...]) -> dict[str, dict[str, float | None]]:
    """report.json: accuracies as fractions in [0, 1], means over the evaluated seeds; None without one."""
    return {
        summary.name: {
            REPORT_KEYS[stage.stage]: None if stage.top1 is None else round(stage.top1.mean / 100, 8)
            for stage in summary.stages
        }
        for summary in summaries
    }


def _summarize_stage(stage: Stage, runs: tuple[RunResult, ...]) -> StageSummary:
    records = [run.record for run in runs if run.record]
    scored = [run for run in runs if run.state == "evaluated"]
    scores = [run.score for run in scored if run.score]
    costs = {run.costs.shape: run.costs for run in runs if run.costs}
    return StageSummary(
        stage,
        _the_one(records, lambda record: record.model),
        _the_one(records, lambda record: record.method),
        _the_one(records, lambda record: record.parameters),
        num_planned=len(runs),
        top1=spread_of([score.top1 for score in scores]),
        seconds=spread_of([run.record.seconds for run in scored if run.record]),
        measures={name: spread for name, spread in _spreads(scores).items() if name != "top1"},
        val=_spreads([run.val for run in scored if run.val]),
        costs=tuple(costs.values()),
        gpu_seconds=spread_of([run.usage.gpu_seconds for run in scored if run.usage]),
        joules=spread_of([run.usage.joules for run in scored if run.usage and run.usage.joules is not None]),
        classes=pooled.classes_of(scores),
        class_top1=pooled.class_top1(scores),
        confusion=pooled.confusion(scores),
        reliability=pooled.reliability(scores),
    )


def _spreads(scores: list[Metrics]) -> dict[str, Spread]:
    """Return the spread of each measure over the scores that have it."""
    values = {name: [score.numbers[name] for score in scores if name in score.numbers] for name in MEASURES}
    return {name: spread for name, numbers in values.items() if (spread := spread_of(numbers))}


def _the_one(records: list[RunRecord], of: Callable[[RunRecord], Value]) -> Value | None:
    values = {of(record) for record in records}
    return values.pop() if len(values) == 1 else None


def _gain(family: Family, name: str) -> PairedGain | None:
    """In the measure `name`."""
    baseline = pooled.by_seed(family.stage("baseline"), pooled.on_test(name))
    distilled = pooled.by_seed(family.stage("distilled"), pooled.on_test(name))
    return paired_gain(pairs_of(baseline, distilled, MEASURES[name].less_is_better))


def _missing(run: RunResult) -> list[str]:
    """What the plan promises and the folder does not hold, one line each."""
    if run.state != "evaluated":
        return [f"{run.name}: {run.state_in_words}"]
    trained_here = run.record is None or run.record.best is None or run.record.best.epoch is not None
    return [f"{run.name}: no history.parquet, so no learning curve"] if trained_here and not run.history else []
