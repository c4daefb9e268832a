"""How one model is trained: model, epochs, batch, optimizer, schedule."""

from dataclasses import dataclass
from math import cos, pi
from typing import Annotated, ClassVar, Literal

from raykd import models
from raykd.config import Config, Interval, MaxLength, NonNegative, Positive, PositiveInt, by_name, skip_if_default
from raykd.data.augmentation import NO_AUGMENTATION, Augmentation
from raykd.data.sampling import Sampling
from raykd.errors import plural
from raykd.models import Model
from raykd.spec.optimizers import SGD, AdamW, Optimizer, find_optimizer

__all__ = ["SGD", "AdamW", "Constant", "Cosine", "MultiStep", "Recipe"]

MAX_EPOCHS = 100_000  # some checks look at every epoch
MAX_BATCH = 1_000_000  # images
MAX_CLASSES = 100_000
MAX_REPEATS = 100


# A schedule's factor() scales the optimizer's lr. progress: in epochs, fractional at each step; epoch: its whole part.


@dataclass(frozen=True)
class Constant(Config):
    """The same learning rate throughout."""

    kind: ClassVar[str] = "constant"

    def factor(self, progress: float, epoch: int, epochs: int) -> float:
        return 1.0


@dataclass(frozen=True)
class MultiStep(Config):
    """Multiply the learning rate by `gamma` at each milestone."""

    kind: ClassVar[str] = "multistep"
    # In ascending order. Each is a number of epochs, or a fraction of them if below 1: 1/2 of 300 epochs is 150. With
    # fractions, a recipe keeps its shape when it is trained for fewer epochs.
    milestones: Annotated[tuple[float, ...], Interval(f"(0, {MAX_EPOCHS}]"), MaxLength(1000)] = (0.5, 0.75)
    gamma: Annotated[float, Interval("(0, 1)")] = 0.1  # factor of the learning rate at each milestone

    def check(self) -> None:
        is_rising = all(a < b for a, b in zip(self.milestones, self.milestones[1:], strict=False))
        self.require(is_rising, "milestones", "must rise from above 0")

    def epochs_of(self, epochs: int) -> list[int]:
        """Return the milestones in whole epochs, for a recipe of `epochs`. A fraction becomes at least 1 epoch."""
        return [max(1, round(m * epochs)) if m < 1 else round(m) for m in self.milestones]

    def factor(self, progress: float, epoch: int, epochs: int) -> float:
        return self.gamma ** sum(epoch >= milestone for milestone in self.epochs_of(epochs))


@dataclass(frozen=True)
class Cosine(Config):
    """Linear warmup, then half a cosine down to a fraction of the learning rate; updated at every step."""

    kind: ClassVar[str] = "cosine"
    warmup_epochs: Annotated[float, Interval(f"[0, {MAX_EPOCHS}]")] = 0.0  # fewer than the recipe's; may be fractional
    floor: Annotated[float, Interval("[0, 1)")] = 0.0  # the final learning rate as a fraction of the optimizer's

    def factor(self, progress: float, epoch: int, epochs: int) -> float:
        if progress < self.warmup_epochs:
            return min(max(progress, 1e-3) / self.warmup_epochs, 1.0)
        share = (progress - self.warmup_epochs) / max(epochs - self.warmup_epochs, 1e-9)
        return self.floor + (1 - self.floor) * 0.5 * (1 + cos(pi * min(share, 1.0)))


@dataclass(frozen=True)
class Recipe(Config):
    """The training of one model."""

    kind: ClassVar[str] = "recipe"
    model: str | Model = by_name("resnet18", models.find)  # a Model, or a name that `raykd models` lists
    epochs: Annotated[int, Interval(f"[1, {MAX_EPOCHS}]")] = 200  # passes over the training images
    # sgd, adamw, or another of torch.optim or timm, such as rmsprop or timm:lamb
    optimizer: Optimizer = by_name(SGD(), find_optimizer)
    schedule: MultiStep | Cosine | Constant = MultiStep()  # of the learning rate
    batch_size: Annotated[int, Interval(f"[1, {MAX_BATCH}]")] = 128  # images per update, over all workers of the run
    label_smoothing: Annotated[float, Interval("[0, 1)")] = 0.0  # of the labels' cross-entropy
    # largest L2 norm of the gradient of the model and of the method's adapter together; None for no clipping
    clip_gradient_norm: Positive | None = None
    # For matrix products and convolutions, see docs/training.md. 'auto': bf16 if the hardware supports it, else fp16 on
    # a GPU with tensor cores, else fp32; run.json records which.
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = "auto"
    channels_last: bool = True  # memory format of convolutions: faster on GPUs with tensor cores
    compile: bool = False  # torch.compile; takes 10 to 60 s before the first step
    # How a training step is launched on a GPU. 'eager': one kernel at a time. 'graph': one CUDA graph of the whole
    # step, from the batch's views to the optimizer. 'auto': a graph if every step is known to do the same work.
    step: Literal["auto", "eager", "graph"] = "auto"
    sync_batch_norm: bool = False  # batch statistics over the images of all workers, not of each worker
    # Applied to the data's views before this model trains on them. A distilled student then requires a live teacher,
    # which receives the same pixels.
    augmentation: Augmentation = NO_AUGMENTATION
    # The fields below are off by default, see docs/training.md.
    ema_decay: Annotated[float | None, Interval("[0, 1)")] = skip_if_default(None)  # of a moving average of the weights
    gradient_accumulation: Annotated[int, Interval(f"[1, {MAX_BATCH}]")] = skip_if_default(1)  # equal passes per update
    # Weights of the labels' cross-entropy by the image's class: 'balanced' for the reciprocal of the class's share of
    # the training images, or one number per class. Scaled to a mean of 1 over the training images.
    class_weights: Annotated[Literal["none", "balanced"] | tuple[NonNegative, ...], MaxLength(MAX_CLASSES)] = (
        skip_if_default("none")
    )
    sampling: Sampling = skip_if_default("shuffle")  # 'balanced' shows each class equally often, with replacement
    # Repeated augmentation: copies of each image in a batch, each with another view and augmentation. An epoch has as
    # many images as with 1, of which fewer are different.
    repeats: Annotated[int, Interval(f"[1, {MAX_REPEATS}]")] = skip_if_default(1)
    # End training after this many epochs without a new best validation top-1; None trains all epochs.
    patience: PositiveInt | None = skip_if_default(None)
    # The epoch whose weights a run keeps, evaluates and distills from: 'best' for the one with the highest validation
    # top-1, 'last' for the last one, as in most published tables.
    keep: Literal["best", "last"] = skip_if_default("best")

    def check(self) -> None:
        is_equal = self.batch_size % self.gradient_accumulation == 0
        self.require(is_equal, "gradient_accumulation", f"must divide batch_size = {self.batch_size}")
        if not isinstance(self.class_weights, str):
            some = "must be none, balanced, or numbers of 0 or more, not all 0"
            self.require(sum(self.class_weights) > 0, "class_weights", some)
        is_twice = self.class_weights == self.sampling == "balanced"
        self.require(not is_twice, "class_weights", "would balance twice with sampling = balanced; use one of them")
        is_drawn = self.repeats == 1 or self.sampling == "shuffle"
        reason = "cannot be combined with sampling = balanced, which repeats images itself; use one of them"
        self.require(is_drawn, "repeats", reason)
        total = plural(self.epochs, "epoch")
        self.require(self.patience is None or self.patience < self.epochs, "patience", f"must be below the {total}")
        needs_best = "ends training by validation, by which keep = last selects no epoch; leave one of them out"
        self.require(self.patience is None or self.keep == "best", "patience", needs_best)
        uniform = "cannot be combined with mixup or cutmix, whose partners are drawn from all images; use shuffle"
        self.require(self.sampling != "balanced" or not self.augmentation.mixes, "sampling", uniform)
        if isinstance(self.schedule, MultiStep):
            is_late = any(m >= self.epochs and m >= 1 for m in self.schedule.milestones)
            remedy = "give fractions of the epochs below 1, such as 0.5,0.75"
            late = f"come after the last of {total} and would do nothing; {remedy}"
            self.schedule.require(not is_late, "milestones", late)
        if isinstance(self.schedule, Cosine):
            is_short = self.schedule.warmup_epochs < self.epochs
            self.schedule.require(is_short, "warmup_epochs", f"must be below the recipe's {total}")

    @property
    def images_per_pass(self) -> int:
        """Images of one forward and backward pass, over all workers of the run."""
        return self.batch_size // self.gradient_accumulation
