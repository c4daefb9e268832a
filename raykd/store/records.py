"""The JSON files below a results folder as dataclasses: training writes them; report, export and searches read them.

    run.json        RunRecord            plan.json        PlanRecord
    val.json        Metrics              search.json      SearchRecord
    test.json       Metrics              confirmed.json   ConfirmationRecord
    costs.json      Costs                cache.json       CacheRecord
    usage/N.json    UsageFile

Accuracies are in percent, times in seconds, epochs count from 0. A `problem()` returns why fields of a file cannot
belong together, or ''. Imports no torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from raykd.spec.stages import Stage
from raykd.store.codec import Between, read_record
from raykd.store.damage import damaged

Percent = Annotated[float, Between(0, 100)]
Fraction = Annotated[float, Between(0, 1 + 1e-9)]
NonNegative = Annotated[float, Between(0)]
Precision = Literal["fp32", "bf16"]  # of matrix products and convolutions
TeacherSource = Literal["live", "cache"]
Failure = Literal["diverged", "rejected", "out of memory", "code", "outside"]


@dataclass(frozen=True)
class ComputeRecord:
    """How a run is computed. A run that resumes keeps `precision`, `threads` and `teacher`."""

    device: str  # as torch spells it
    precision: Precision
    threads: int  # of the CPU
    workers: tuple[int, ...] = (1,)  # how many trained the run, one number for each time that this changed
    channels_last: bool = True
    compiled: bool = False
    step: Literal["eager", "graph"] = "eager"  # each kernel is launched by itself, or the step as one CUDA graph
    teacher: TeacherSource | None = None
    per_worker: str | None = None  # what each of several workers computes or draws for itself


@dataclass(frozen=True)
class Best:
    """The epoch with the best validation top-1, whose weights are kept."""

    epoch: int | None  # None for imported weights
    val_top1: Percent


@dataclass(frozen=True)
class ImportCheck:
    """The result of checking an imported teacher, see training/teacher/import_check.py."""

    val_top1: Percent
    num_images: int  # that validate
    refused: str = ""  # why the teacher does not fit, or ''
    cautions: tuple[str, ...] = ()  # one sentence each


@dataclass(frozen=True)
class RunRecord:
    """run.json: which run the folder holds, how it is computed, and how far it is."""

    name: str
    family: str
    stage: Stage
    model: str
    method: str
    seed: int
    fingerprint: str
    config: Mapping[str, Any]  # to_dict(run); a custom method's fields are as its file declares them
    status: Literal["running", "done", "failed"]  # a killed process leaves 'running'
    started: str  # UTC, ISO 8601
    compute: ComputeRecord
    versions: Mapping[str, str]
    hardware: Mapping[str, str | None]
    git: Mapping[str, str | None]
    writer: str = "another process"  # the last process that trained the run
    seconds: NonNegative = 0.0  # of training, once the run is done
    resumes: int = 0
    ended: str | None = None
    reason: str | None = None  # of a failure
    failure: Failure | None = None  # its kind, see training/failure.py
    teacher_sha256: str = ""  # identity of the teacher's weights, '' without a teacher
    parameters: int | None = None  # of the network
    peak_memory_bytes: int | None = None  # of the GPU
    best: Best | None = None
    weights_sha256: str | None = None  # of best.safetensors
    history_sha256: str | None = None  # of history.parquet
    imported: ImportCheck | None = None
    model_metrics: Mapping[str, float] = field(default_factory=dict)  # of a trial: the same for any weights

    def problem(self) -> str:
        return "field 'best' is missing, and the run is done" if self.status == "done" and self.best is None else ""

    @property
    def fails_by_configuration(self) -> bool:
        """Whether the run failed because of its own configuration, so that it would fail again."""
        return self.status == "failed" and self.failure not in (None, "outside")


@dataclass(frozen=True)
class Reliability:
    """A reliability diagram with bins of confidence of equal width from 0 to 1.

    Each bin has its number of images, their mean confidence and the fraction that was right; both are None in a bin
    without images.
    """

    count: tuple[int, ...]
    confidence: tuple[Fraction | None, ...]
    accuracy: tuple[Fraction | None, ...]

    def problem(self) -> str:
        """Return why the three cannot belong together, or ''."""
        is_whole = len(self.count) == len(self.confidence) == len(self.accuracy)
        return "" if is_whole else "reliability has bins without a count, a confidence or an accuracy"


@dataclass(frozen=True)
class Metrics:
    """val.json and test.json: how the best weights do on one split; training/measures.py defines each metric.

    top1, top5, agreement and class_top1 are in percent, nll and teacher_kl in nats per image, ece and brier in [0, 1]
    and [0, 2]. top5 is None for at most 5 classes; agreement and teacher_kl are None without a teacher; class_top1 is
    None for a class without images. confusion[label][predicted] counts images. teacher_sha256 is of the teacher's
    weights.
    """

    top1: Percent
    nll: NonNegative
    num_images: int
    top5: Percent | None = None
    ece: NonNegative | None = None
    brier: NonNegative | None = None
    agreement: Percent | None = None
    teacher_kl: float | None = None
    class_top1: tuple[Percent | None, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()
    reliability: Reliability | None = None
    classes: tuple[str, ...] = ()
    weights_sha256: str | None = None
    teacher_sha256: str | None = None

    def problem(self) -> str:
        """Return why classes, class_top1 and confusion cannot belong together, or ''."""
        sizes = {len(found) for found in (self.confusion, self.classes, self.class_top1, *self.confusion) if found}
        if len(sizes) > 1:
            return f"classes, class_top1 and confusion are of different sizes: {sorted(sizes)}"
        num_counted = sum(map(sum, self.confusion))
        if self.confusion and num_counted != self.num_images:
            return f"confusion has {num_counted} images, num_images is {self.num_images}"
        return ""

    @property
    def numbers(self) -> Mapping[str, float]:
        """Every metric that is one number and known, by name."""
        names = ("top1", "nll", "top5", "ece", "brier", "agreement", "teacher_kl")
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
    """costs.json: what a model costs its user, on `device` in `precision` with `threads` of a CPU.

    shape: equal for models that cost the same there. flops: of one image's forward pass; a multiply-add counts 2.
    """

    shape: str
    device: str
    precision: str
    threads: int | None
    image_size: int
    torch: str
    parameters: int
    flops: int
    latency_ms: Timing
    images_per_s: Timing


@dataclass(frozen=True)
class UsagePiece:
    """What one worker used from one start of a run until its next end. gpus: may be a fraction; gpu: its name.

    joules: None where they are not known, for the reason in `no_joules_because`.
    """

    seconds: NonNegative
    gpus: NonNegative
    gpu: str | None
    joules: NonNegative | None
    no_joules_because: str | None


@dataclass(frozen=True)
class UsageFile:
    """usage/<rank>.json: every piece of one worker, oldest first.

    since: the time of the first piece, where the run was partly trained before; what it used until then is not known.
    """

    run: str
    pieces: tuple[UsagePiece, ...] = ()
    since: str | None = None


@dataclass(frozen=True)
class PlanRecord:
    """plan.json of a family: the runs that its report is about. A run is named by its folder beside the file."""

    family: str
    stages: Mapping[Stage, tuple[str, ...]] = field(default_factory=dict)
    comparison: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # by method, where several are compared
    experiment: Mapping[str, Any] = field(default_factory=dict)  # to_dict(experiment)

    @property
    def names(self) -> set[str]:
        """The names of all runs."""
        return {name for names in (*self.stages.values(), *self.comparison.values()) for name in names}

    def problem(self) -> str:
        for stage, names in (*self.stages.items(), *self.comparison.items()):
            if others := [name for name in names if not _is_folder_name(name)]:
                return f"'{others[0]}' is not the name of a run's folder"
            if len(set(names)) != len(names):
                return f"stage '{stage}' names a run twice"
        return ""


def _is_folder_name(name: str) -> bool:
    """Return whether `name` names a folder beside the file: no path that leaves it, and no control characters."""
    is_name = name not in ("", "..") and Path(name).name == name and name.isprintable()
    return is_name and "?" not in name  # the codec's replacement for what is no UTF-8


def read_plan(path: Path) -> PlanRecord:
    """Return the plan.json of a family; without such a file nothing is planned. Raises DamagedFile."""
    family = path.parent.name
    plan = read_record(PlanRecord, path) or PlanRecord(family)
    if plan.family != family:
        raise damaged(path, f"family is '{plan.family}', the folder is '{family}'")
    return plan


@dataclass(frozen=True)
class SearchRecord:
    """search.json: what is searched, and with what."""

    family: str
    name: str
    identity: Mapping[str, Any]  # everything that decides the results of the trials
    search: Mapping[str, Any]  # to_dict(search)
    default_setting: Mapping[str, Any]  # the experiment's default value of each searched field, by dotted path
    epochs: int  # of the longest trial
    seeds: tuple[int, ...]  # of the experiment, for the confirmation
    started: str  # UTC, ISO 8601
    versions: Mapping[str, str]
    hardware: Mapping[str, str | None]
    git: Mapping[str, str | None]
    resumes: int = 0
    fill_seconds: NonNegative = 0.0  # that this search spent on filling logit caches
    cache: str | None = None  # folder of the logit cache that the trials read; None for a live teacher
    cpus: NonNegative | None = None  # of one trial; None until trials have started
    gpus: NonNegative | None = None

    def problem(self) -> str:
        is_folder = self.cache is None or _is_folder_name(self.cache)
        return "" if is_folder else f"cache is '{self.cache}', not the name of a folder"


@dataclass(frozen=True)
class CandidateRecord:
    """One setting of confirmed.json, trained with several seeds."""

    trial: int | None  # that found it; None for the default setting and for the baseline
    setting: Mapping[str, Any]  # of the baseline only the student's fields
    runs: tuple[str, ...]  # names of the run folders
    values: tuple[float, ...]  # the metric of each seed; () if the candidate failed
    failed: str | None = None  # why a seed has no result


@dataclass(frozen=True)
class ConfirmationRecord:
    """confirmed.json: the best settings of a search trained with other seeds, beside the default setting."""

    metric: Literal["val_top1", "val_loss"]
    asked: int  # how many settings of the search were to be confirmed
    trials: int  # that had ended before
    seeds: tuple[int, ...]
    candidates: tuple[CandidateRecord, ...]
    baseline: CandidateRecord  # the student without a teacher
    winner: int  # index of the best candidate

    @property
    def best_candidate(self) -> CandidateRecord:
        """The winner."""
        return self.candidates[self.winner]

    @property
    def default(self) -> CandidateRecord | None:
        """The candidate with the default setting."""
        return next((candidate for candidate in self.candidates if candidate.trial is None), None)

    @property
    def num_found(self) -> int:
        """Number of candidates that the search found."""
        return sum(candidate.trial is not None for candidate in self.candidates)

    def problem(self) -> str:
        for row in (*self.candidates, self.baseline):
            if len(row.values) != (0 if row.failed else len(self.seeds)):
                return f"values {list(row.values)!r:.80} are not {len(self.seeds)} numbers, one for each seed"
        if self.winner >= len(self.candidates):
            return f"winner is {self.winner}, and there are {len(self.candidates)} candidates"
        if failed := self.candidates[self.winner].failed:
            return f"winner is {self.winner}, and that candidate failed: {failed}"
        return ""


@dataclass(frozen=True)
class CacheRecord:
    """cache.json of a logit cache: the fields of its `CacheKey`, and the precision that its teacher computes in."""

    teacher_sha256: str
    data_identity: str
    crop_padding: int
    flip: bool
    precision: str  # of the recipe, which may be 'auto'
    num_images: int
    num_classes: int
    embedding_width: int
    computed_in: str
