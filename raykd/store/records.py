"""The schemas of the JSON files below a results folder, as dataclasses for the code that writes and reads them.

    run.json        RunRecord            plan.json        PlanRecord
    val.json        Metrics              search.json      SearchRecord
    test.json       Metrics              confirmed.json   ConfirmationRecord
    costs.json      Costs                cache.json       CacheRecord
    usage/N.json    UsageFile            sampled.json     RestoredSample
    tracking.json   TrackingRecord       tags.json        TagsRecord

Accuracies are in percent, times in seconds, epochs count from 0. `problem()` returns why the values of a file are
inconsistent, or ''. Imports no torch.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from raykd.config import Interval, NonNegative
from raykd.config.codec import read_record
from raykd.disk.damage import damaged
from raykd.errors import Failure
from raykd.spec.stages import STAGES, Stage
from raykd.store.recorded_config import RecordedExperiment, RecordedRun

Percent = Annotated[float, Interval("[0, 100]")]
Fraction = Annotated[float, Interval("[0, 1.000000001]")]  # with the rounding of a sum
Precision = Literal["fp32", "tf32", "bf16", "fp16"]  # of matrix products and convolutions, see training/compute.py
TeacherSource = Literal["live", "cache"]
EndState = Literal["done", "pruned", "failed"]  # end of a search's trial; a pruned trial was stopped early
END_STATES: tuple[EndState, ...] = get_args(EndState)
TrialState = Literal["waiting", "running"] | EndState  # waiting: enqueued and not started


@dataclass(frozen=True)
class TopClasses:
    """The classes that a logit cache keeps, and the error of the logits that are restored from them.

    kept: classes with the teacher's logits, of num_classes. probability: sum over the kept classes, mean over views.
    kl: mean KL(teacher || restored) at the measured temperature that is nearest to that of the run's method. Both are
    None if nothing was measured. See training/teacher/sparse_rows.py.
    """

    kept: int
    num_classes: int
    probability: Fraction | None = None
    kl: NonNegative | None = None  # nats per view
    temperature: NonNegative = 1.0


@dataclass(frozen=True)
class ComputeRecord:
    """How a run is computed. A run that resumes keeps `precision`, `threads` and `teacher`."""

    device: str  # torch's name of the device
    precision: Precision
    threads: int  # CPU threads
    workers: tuple[int, ...] = (1,)  # number of workers; a new entry each time it changed
    channels_last: bool = True
    compiled: bool = False
    step: Literal["eager", "graph"] = "eager"  # single kernels, or the whole step as one CUDA graph
    teacher: TeacherSource | None = None
    top_classes: TopClasses | None = None  # of a teacher from a logit cache of the top classes
    per_worker: str | None = None  # what each of several workers computes or samples separately


@dataclass(frozen=True)
class Best:
    """The epoch whose weights are kept: that with the best validation top-1, or the last, by `Recipe.keep`."""

    epoch: int | None  # None for imported weights
    val_top1: Percent | None  # None without validation images


@dataclass(frozen=True)
class ImportCheck:
    """The result of checking an imported teacher, see training/teacher/import_check.py."""

    val_top1: Percent
    num_images: int  # images in the validation split, or of the training split if on_training_images
    refused: str = ""  # reason for refusing the teacher, or ''
    warnings: tuple[str, ...] = ()  # one sentence each
    has_votes: bool = False  # whether val_top1 is that of nearest neighbors, for a teacher without a classifier
    on_training_images: bool = False  # whether the check had training images, because none are for validation


@dataclass(frozen=True)
class UnfinishedWarmup:
    """A warm-up of a method's loss terms that does not end within its run."""

    epochs: NonNegative  # of the whole warm-up
    reached: Fraction  # share of their weights that the terms reach in the run's last epoch


@dataclass(frozen=True)
class RunRecord:
    """run.json: the run in the folder, how it is computed, its status and result."""

    name: str
    family: str
    stage: Stage
    model: str
    method: str
    seed: int
    fingerprint: str
    config: Mapping[str, Any]  # to_dict(run)
    status: Literal["running", "done", "failed"]  # a killed process leaves 'running' behind
    started: str  # UTC, ISO 8601
    compute: ComputeRecord
    versions: Mapping[str, str]
    hardware: Mapping[str, str | None]
    git: Mapping[str, str | None]
    writer: str = "another process"  # the last process that trained the run
    host: str | None = None  # its machine
    seconds: NonNegative = 0.0  # training time, once the run is done
    resumes: int = 0
    ended: str | None = None
    reason: str | None = None  # reason of a failure
    failure: Failure | None = None  # kind of the failure
    teacher_sha256: str = ""  # identity of the teacher's weights, '' without a teacher
    teachers: tuple[str, ...] = ()  # names of the runs of its teachers
    starts_as_its_teacher: bool = False  # see Run
    unfinished_warmup: UnfinishedWarmup | None = None
    parameters: int | None = None  # the network's parameters
    num_train_images: int | None = None  # None for imported weights
    peak_memory_bytes: int | None = None  # GPU memory; on a CPU, the peak of the whole process
    best: Best | None = None
    weights_sha256: str | None = None  # SHA-256 of best.safetensors
    history_sha256: str | None = None  # SHA-256 of history.parquet
    imported: ImportCheck | None = None
    stopped_early: str | None = None  # why the run ended before its recipe's last epoch
    data_wait: Fraction | None = None  # share of `seconds` that steps waited for images; None for images in memory
    model_metrics: Mapping[str, float] = field(default_factory=dict)  # metrics of a trial that do not depend on weights

    def problem(self) -> str:
        return "field 'best' is missing, but the run is done" if self.status == "done" and self.best is None else ""

    @cached_property
    def configuration(self) -> RecordedRun:
        """The typed fields of `config`."""
        return RecordedRun(self.config)

    @property
    def fails_by_configuration(self) -> bool:
        """Whether the run failed because of its configuration, so that it would fail again."""
        return self.status == "failed" and self.failure not in (None, "outside")


@dataclass(frozen=True)
class TrackerEntry:
    """What a tracker has of a run, family or search. store: identifies the server or file, which created the id."""

    run_id: str = ""
    store: str = ""
    epochs: int = 0
    results: int = 0  # number of values of the finished run
    state: str = "running"
    report: str = ""  # fingerprint of the report that is attached to a family or search


@dataclass(frozen=True)
class TrackingRecord:
    """tracking.json: what was copied into each tracker, by its name."""

    trackers: Mapping[str, TrackerEntry] = field(default_factory=dict)


@dataclass(frozen=True)
class TagsRecord:
    """tags.json: words that the user gave a run."""

    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reliability:
    """A reliability diagram with confidence bins of equal width from 0 to 1."""

    count: tuple[int, ...]  # images in each bin
    confidence: tuple[Fraction | None, ...]  # mean of the bin; None in an empty bin
    accuracy: tuple[Fraction | None, ...]

    def problem(self) -> str:
        is_consistent = len(self.count) == len(self.confidence) == len(self.accuracy)
        return "" if is_consistent else "the lists of field 'reliability' have different lengths"


@dataclass(frozen=True)
class Metrics:
    """val.json and test.json: the metrics of the best weights on one split, defined in training/metrics.py."""

    top1: Percent
    nll: NonNegative  # nats per image
    num_images: int
    top5: Percent | None = None  # None for at most 5 classes
    ece: NonNegative | None = None  # at most 1
    brier: NonNegative | None = None  # at most 2
    agreement: Percent | None = None  # None without a teacher
    teacher_kl: float | None = None  # nats per image; None without a teacher
    class_top1: tuple[Percent | None, ...] = ()  # None for a class without images
    confusion: tuple[tuple[int, ...], ...] = ()  # number of images by [label][predicted]
    reliability: Reliability | None = None
    classes: tuple[str, ...] = ()
    weights_sha256: str | None = None
    teacher_sha256: str | None = None  # SHA-256 of the teacher's weights
    # Only for a model without a classifier, whose other metrics are those of a linear probe on its embedding: the
    # accuracy by k-NN, and the L2 penalty of the probe, see training/probe.py.
    knn_top1: Percent | None = None
    probe_penalty: NonNegative | None = None

    def problem(self) -> str:
        sizes = {len(part) for part in (self.confusion, self.classes, self.class_top1, *self.confusion) if part}
        if len(sizes) > 1:
            return f"classes, class_top1 and confusion have different sizes: {sorted(sizes)}"
        num_counted = sum(map(sum, self.confusion))
        if self.confusion and num_counted != self.num_images:
            return f"confusion counts {num_counted} images, but num_images is {self.num_images}"
        return ""

    @property
    def is_probe(self) -> bool:
        """Whether the metrics are those of a linear probe, and not of the model's classifier."""
        return self.probe_penalty is not None

    @property
    def numbers(self) -> Mapping[str, float]:
        """The known metrics that are single numbers, by name."""
        names = ("top1", "nll", "top5", "ece", "brier", "agreement", "teacher_kl", "knn_top1")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


@dataclass(frozen=True)
class Timing:
    """Median, 10th and 90th percentile over `passes` of `batch_size` images each."""

    median: NonNegative
    p10: NonNegative
    p90: NonNegative
    passes: int
    batch_size: int


@dataclass(frozen=True)
class Costs:
    """costs.json: the inference costs of a model."""

    shape: str  # equal for models of equal cost
    device: str
    precision: str
    threads: int | None  # CPU threads
    image_size: int
    torch: str
    parameters: int
    flops: int  # FLOPs of the forward pass of one image; a multiply-add counts as 2
    latency_ms: Timing
    images_per_s: Timing


@dataclass(frozen=True)
class UsagePiece:
    """The resources that one worker used between a start and the next end of a run."""

    seconds: NonNegative
    gpus: NonNegative  # may be a fraction
    gpu: str | None  # its name
    joules: NonNegative | None  # None if unknown
    joules_missing_reason: str | None


@dataclass(frozen=True)
class UsageFile:
    """usage/<rank>.json: the usage of one worker."""

    run: str
    pieces: tuple[UsagePiece, ...] = ()  # oldest first
    since: str | None = None  # time before which the run was partly trained with unknown usage


@dataclass(frozen=True)
class CommandParts:
    """The parts of the command that planned a family, from which the report makes other commands.

    program: the words that run the experiment, such as ('raykd', 'run', 'tune_cnn'). options: the other words that set
    no field, such as ('--results', 'DIR'). settings: the fields of this family's experiment that the command sets,
    {dotted path: value as text}.
    """

    program: tuple[str, ...]
    options: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)

    def problem(self) -> str:
        words = (*self.program, *self.options, *self.settings, *self.settings.values())
        return "" if all(map(str.isprintable, words)) else "field 'command_parts' has characters that are not printable"


@dataclass(frozen=True)
class PlanRecord:
    """plan.json of a family: the runs in its report, by the names of their folders; see `planned_folder`."""

    family: str
    stages: Mapping[Stage, tuple[str, ...]] = field(default_factory=dict)
    comparison: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # runs by method, if several are compared
    experiment: Mapping[str, Any] = field(default_factory=dict)  # to_dict(experiment)
    command: str = ""  # the last command that planned these runs, as typed in a shell
    command_parts: CommandParts | None = None  # of that command; None if it is not one of raykd's command line

    @cached_property
    def configuration(self) -> RecordedExperiment:
        """The typed fields of `experiment`."""
        return RecordedExperiment(self.experiment)

    @property
    def names(self) -> set[str]:
        """The names of all runs of the plan."""
        return {name for stage in STAGES for name in self.names_of(stage)}

    def names_of(self, stage: Stage) -> tuple[str, ...]:
        """Return the names of the runs of a stage, each once. Those of compared methods are distilled."""
        compared = chain.from_iterable(self.comparison.values()) if stage == "distilled" else ()
        return tuple(dict.fromkeys((*self.stages.get(stage, ()), *compared)))

    def problem(self) -> str:
        for stage, names in (*self.stages.items(), *self.comparison.items()):
            if others := [name for name in names if not _is_folder_name(name)]:
                return f"'{others[0]}' is not the name of a run's folder"
            if len(set(names)) != len(names):
                return f"stage '{stage}' has a run twice"
        return ""


def _is_folder_name(name: str) -> bool:
    """Return whether `name` is the name of a folder beside the file, without a path or control characters."""
    is_name = name not in ("", "..") and Path(name).name == name and name.isprintable()
    return is_name and "?" not in name  # the codec replaces invalid UTF-8 by "?"


def read_plan(path: Path) -> PlanRecord:
    """Return the plan.json of a family, or an empty plan if there is no such file. Raises DamagedFile."""
    family = path.parent.name
    plan = read_record(PlanRecord, path) or PlanRecord(family)
    if plan.family != family:
        raise damaged(path, f"family is '{plan.family}', but the folder is '{family}'")
    return plan


@dataclass(frozen=True)
class SearchRecord:
    """search.json: the search, its resources, and the code and hardware that run it."""

    family: str
    name: str
    identity: Mapping[str, Any]  # everything that determines the results of the trials
    search: Mapping[str, Any]  # to_dict(search)
    default_configuration: Mapping[str, Any]  # the experiment's default value of each searched field, by dotted path
    epochs: int  # epochs of the longest trial
    seeds: tuple[int, ...]  # the experiment's seeds, for the confirmation
    started: str  # UTC, ISO 8601
    versions: Mapping[str, str]
    hardware: Mapping[str, str | None]
    git: Mapping[str, str | None]
    resumes: int = 0
    fill_seconds: NonNegative = 0.0  # time that this search spent on filling logit caches
    cache: str | None = None  # folder of the logit cache that the trials read; None for a live teacher
    cpus: NonNegative | None = None  # CPUs of one trial; None until trials have started
    gpus: NonNegative | None = None

    def problem(self) -> str:
        is_folder = self.cache is None or _is_folder_name(self.cache)
        return "" if is_folder else f"cache is '{self.cache}', which is not the name of a folder"


@dataclass(frozen=True)
class CandidateRecord:
    """One configuration of confirmed.json, trained with several seeds."""

    trial: int | None  # trial with this configuration; None for the default configuration and for the baseline
    configuration: Mapping[str, Any]  # for the baseline, only the student's fields
    runs: tuple[str, ...]  # names of the run folders
    values: tuple[float, ...]  # the metric of each seed; () if the candidate failed
    failed: str | None = None  # why a seed has no result


@dataclass(frozen=True)
class ConfirmationRecord:
    """confirmed.json: the best configurations of a search and the default one, trained with other seeds."""

    metric: Literal["val_top1", "val_loss"]
    num_requested: int  # number of configurations of the search to confirm
    num_trials: int  # number of ended trials at that time
    seeds: tuple[int, ...]
    candidates: tuple[CandidateRecord, ...]
    baseline: CandidateRecord  # the student without a teacher
    winner: int  # index of the best candidate

    @property
    def best_candidate(self) -> CandidateRecord:
        return self.candidates[self.winner]

    @property
    def default(self) -> CandidateRecord | None:
        """The candidate with the default configuration."""
        return next((candidate for candidate in self.candidates if candidate.trial is None), None)

    @property
    def num_found(self) -> int:
        """The number of candidates from trials, not the default configuration."""
        return sum(candidate.trial is not None for candidate in self.candidates)

    def problem(self) -> str:
        for row in (*self.candidates, self.baseline):
            if len(row.values) != (0 if row.failed else len(self.seeds)):
                return f"values {list(row.values)!r:.80} are not {len(self.seeds)} numbers, one per seed"
        if self.winner >= len(self.candidates):
            return f"winner is {self.winner}, but there are {len(self.candidates)} candidates"
        if failed := self.candidates[self.winner].failed:
            return f"winner is {self.winner}, but that candidate failed: {failed}"
        return ""


CACHE_CHECKSUM_BYTES = 4  # in a logit cache's filled.bits, after the bits of each image, which fill whole bytes


@dataclass(frozen=True)
class CacheRecord:
    """cache.json of a logit cache: the fields of its `CacheKey`, and the precision of its teacher's computation.

    min_crop_area, views_per_image: None for views of padded images. cached_classes: classes with logits in each row,
    None for all.
    """

    teacher_sha256: str
    data_identity: str
    crop_padding: int
    flip: bool
    precision: str  # precision of the recipe; may be 'auto'
    num_images: int
    num_classes: int
    embedding_width: int
    computed_in: str
    min_crop_area: Fraction | None = None
    views_per_image: int | None = None
    cached_classes: int | None = None


@dataclass(frozen=True)
class SampleSum:
    """The sum of a number over `num_rows` rows of a logit cache."""

    num_rows: int
    total: NonNegative

    @property
    def mean(self) -> float:
        return self.total / self.num_rows

    def problem(self) -> str:
        return "" if self.num_rows else "num_rows is 0, so there is no mean"

    def __add__(self, other: "SampleSum") -> "SampleSum":
        return SampleSum(self.num_rows + other.num_rows, self.total + other.total)


@dataclass(frozen=True)
class RestoredSample:
    """sampled.json of a logit cache of the top classes: the error of the restored logits in a sample of its rows.

    probability: sum over the kept classes. kl: KL(teacher || restored) in nats, by temperature as text.
    """

    probability: SampleSum
    kl: Mapping[str, SampleSum]

    def problem(self) -> str:
        is_number = re.compile(r"\d+(\.\d+)?(e[+-]?\d+)?").fullmatch
        are_known = bool(self.kl) and all(is_number(name) and float(name) > 0 for name in self.kl)
        return "" if are_known else "the names in field 'kl' are not temperatures"

    def __add__(self, other: "RestoredSample") -> "RestoredSample":
        kl = {**self.kl, **other.kl} | {name: self.kl[name] + other.kl[name] for name in self.kl.keys() & other.kl}
        return RestoredSample(self.probability + other.probability, kl)
