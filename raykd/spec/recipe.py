"""How one model is trained: model, epochs, batch, optimizer, schedule."""

from dataclasses import dataclass
from math import cos, pi
from typing import Annotated, ClassVar, Literal

from raykd import models
from raykd.config import AtMost, Config, MaxLength, by_name
from raykd.data.augmentation import NO_AUGMENTATION, Augmentation
from raykd.errors import plural
from raykd.models import Model

MAX_EPOCHS = 100_000  # some checks look at each epoch by itself
MAX_BATCH = 1_000_000  # images


@dataclass(frozen=True)
class SGD(Config):
    """Stochastic gradient descent; weight decay on every weight, as the CIFAR recipes have it."""

    kind: ClassVar[str] = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    nesterov: bool = False

    def check(self) -> None:
        self.require(0 < self.lr < float("inf"), "lr", "must be greater than 0")
        self.require(0 <= self.momentum < 1, "momentum", "must lie in [0, 1)")
        self.require(0 <= self.weight_decay < float("inf"), "weight_decay", "must be 0 or more")
        self.require(not self.nesterov or self.momentum > 0, "nesterov", "wants momentum above 0")


@dataclass(frozen=True)
class AdamW(Config):
    """Adam with decoupled weight decay (arXiv:1711.05101); none on norms, biases and position embeddings."""

    kind: ClassVar[str] = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.05
    beta1: float = 0.9
    beta2: float = 0.999

    def check(self) -> None:
        self.require(0 < self.lr < float("inf"), "lr", "must be greater than 0")
        self.require(0 <= self.weight_decay < float("inf"), "weight_decay", "must be 0 or more")
        for name in ("beta1", "beta2"):
            self.require(0 <= getattr(self, name) < 1, name, "must lie in [0, 1)")


@dataclass(frozen=True)
class Constant(Config):
    """The same learning rate throughout."""

    kind: ClassVar[str] = "constant"

    def factor(self, progress: float, epoch: int, epochs: int) -> float:
        return 1.0


@dataclass(frozen=True)
class MultiStep(Config):
    """The learning rate times `gamma` at each milestone, given in epochs, or below 1 as a share of them.

    Shares (1/2 of 300 epochs is 150) keep the recipe's shape when somebody trains for fewer epochs.
    """

    kind: ClassVar[str] = "multistep"
    milestones: Annotated[tuple[float, ...], AtMost(MAX_EPOCHS), MaxLength(1000)] = (0.5, 0.75)
    gamma: float = 0.1

    def check(self) -> None:
        rising = all(a < b for a, b in zip(self.milestones, self.milestones[1:], strict=False))
        self.require(rising and all(m > 0 for m in self.milestones), "milestones", "must rise from above 0")
        self.require(0 < self.gamma < 1, "gamma", "must lie in (0, 1)")

    def epochs_of(self, epochs: int) -> list[int]:
        """The milestones in whole epochs of a recipe of `epochs`; a share is never less than the first epoch."""
        return [max(1, round(m * epochs)) if m < 1 else round(m) for m in self.milestones]

    def factor(self, progress: float, epoch: int, epochs: int) -> float:
        return self.gamma ** sum(epoch >= milestone for milestone in self.epochs_of(epochs))


@dataclass(frozen=True)
class Cosine(Config):
    """Half a cosine from the learning rate to `floor` of it, stepwise, after `warmup_epochs` of linear rise."""

    kind: ClassVar[str] = "cosine"
    warmup_epochs: Annotated[float, AtMost(MAX_EPOCHS)] = 0.0
    floor: float = 0.0

    def check(self) -> None:
        self.require(0 <= self.warmup_epochs < float("inf"), "warmup_epochs", "must be 0 or more")
        self.require(0 <= self.floor < 1, "floor", "must lie in [0, 1)")

    def factor(self, progress: float, epoch: int, epochs: int) -> float:
        if progress < self.warmup_epochs:
            return max(progress, 1e-3) / self.warmup_epochs
        share = (progress - self.warmup_epochs) / max(epochs - self.warmup_epochs, 1e-9)
        return self.floor + (1 - self.floor) * 0.5 * (1 + cos(pi * min(share, 1.0)))


@dataclass(frozen=True)
class Recipe(Config):
    """One training. `model` is a name of `raykd.models.MODELS`, 'timm:<name>', or a Model with its own fields.

    precision: of matrix products and convolutions; 'auto' is bf16 where the hardware has it, else fp32, and run.json
    says which. compile: by torch.compile; 10 to 60 s before the first step. step: how a training step is launched on a
    GPU: 'graph' captures the whole step, from the batch's views to the optimizer, as one CUDA graph and replays it;
    'eager' launches each kernel; 'auto' captures where raykd knows that every step does the same work.
    sync_batch_norm: of a run of several workers, over the images of all and not of each. augmentation: what is done to
    the data's views before this model trains on them; a distilled student's teacher is then asked about the very same
    pixels, live.
    """

    kind: ClassVar[str] = "recipe"
    model: str | Model = by_name("resnet18", models.find)
    epochs: Annotated[int, AtMost(MAX_EPOCHS)] = 200
    optimizer: SGD | AdamW = SGD()
    schedule: MultiStep | Cosine | Constant = MultiStep()
    batch_size: Annotated[int, AtMost(MAX_BATCH)] = 128
    label_smoothing: float = 0.0
    clip_gradient_norm: float | None = None
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    channels_last: bool = True
    compile: bool = False
    step: Literal["auto", "eager", "graph"] = "auto"
    sync_batch_norm: bool = False
    augmentation: Augmentation = NO_AUGMENTATION

    def check(self) -> None:
        self.require(self.epochs >= 1, "epochs", "must be at least 1")
        self.require(self.batch_size >= 1, "batch_size", "must be at least 1")
        self.require(0 <= self.label_smoothing < 1, "label_smoothing", "must lie in [0, 1)")
        self.require(
            self.clip_gradient_norm is None or self.clip_gradient_norm > 0,
            "clip_gradient_norm",
            "must be greater than 0, or none",
        )
        if isinstance(self.schedule, MultiStep):
            late = [m for m in self.schedule.milestones if m >= self.epochs and m >= 1]
            self.schedule.require(
                not late,
                "milestones",
                f"come after the last of {plural(self.epochs, 'epoch')} and would do "
                "nothing; give shares of the epochs below 1, such as 0.5,0.75",
            )
        if isinstance(self.schedule, Cosine):
            self.schedule.require(
                self.schedule.warmup_epochs < self.epochs,
                "warmup_epochs",
                f"must be below the recipe's {plural(self.epochs, 'epoch')}",
            )
