"""The interface between the training loop and its caller: reports per epoch, stopping, checkpoint interval."""

from collections.abc import Callable
from dataclasses import dataclass

from raykd.outputs import HISTORY_COLUMNS

CHECKPOINT_EVERY_S = 60.0  # the most work that an interruption can lose; an epoch on an H100 takes about a second


@dataclass(frozen=True)
class EpochReport:
    """One epoch of one run. top1 is in percent; seconds is the training time over all resumes.

    val_top1, val_loss: NaN without validation images. best_epoch, best_val_top1: of the epoch that is kept so far.
    terms: mean unweighted loss terms and the loss. data_wait: the fraction of the steps' time in which training waited
    for images on disk, None for images in memory. compute: a description of precision, device, teacher and step.
    """

    run: str
    epoch: int
    epochs: int
    terms: dict[str, float]
    train_top1: float
    val_top1: float
    val_loss: float
    best_val_top1: float
    lr: float
    images_per_s: float
    seconds: float
    compute: str = ""
    data_wait: float | None = None
    best_epoch: int = -1
    stopped_early: str = ""  # why the run ends with this epoch, before its recipe's last one; '' if it does not

    @property
    def is_last(self) -> bool:
        """Whether the run ends with this epoch."""
        return bool(self.stopped_early) or self.epoch + 1 == self.epochs

    def row(self, steps_per_epoch: int) -> dict[str, float]:
        """Return the epoch's row in history.parquet: HISTORY_COLUMNS and the loss terms."""
        row = {"epoch": self.epoch, "step": (self.epoch + 1) * steps_per_epoch, **self.terms}
        return row | {name: getattr(self, name) for name in HISTORY_COLUMNS if name not in row}


@dataclass(frozen=True)
class Hooks:
    """Callbacks of the training loop, and the seconds between checkpoints."""

    on_epoch: Callable[[EpochReport], None] = lambda report: None
    should_stop: Callable[[], bool] = lambda: False
    checkpoint_every_s: float = CHECKPOINT_EVERY_S


NO_HOOKS = Hooks()
