"""The files of a run's folder as dataclasses: what training writes, and what the report, exports and searches read.

top1 and other accuracies are in percent, times in seconds, epochs count from 0. Imports no torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from raykd.store.codec import Between

Percent = Annotated[float, Between(0, 100)]
Fraction = Annotated[float, Between(0, 1 + 1e-9)]
NonNegative = Annotated[float, Between(0)]


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
