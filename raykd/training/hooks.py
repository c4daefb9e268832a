"""What the loop tells the outside, and what the outside may ask of it."""

from collections.abc import Callable
from dataclasses import dataclass

from raykd.outputs import HISTORY_COLUMNS

CHECKPOINT_EVERY_S = 60.0  # the work that a kill can cost; an H100's epoch takes about a second


@dataclass(frozen=True)
class EpochReport:
    """One epoch of one run, as `on_epoch` gets it. top1 in percent, seconds of training over all resumes.

    compute: how it is computed, in words.
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

    def row(self, steps_per_epoch: int) -> dict[str, float]:
        """Return the epoch's row in history.parquet: HISTORY_COLUMNS and the loss terms."""
        counts = {"epoch": self.epoch, "step": (self.epoch + 1) * steps_per_epoch}
        row = {**counts, **self.terms}
        return row | {name: getattr(self, name) for name in HISTORY_COLUMNS if name not in row}


@dataclass(frozen=True)
class Hooks:
    """What the outside gives a run: who hears of each epoch, who may stop it, how often it is saved (seconds)."""

    on_epoch: Callable[[EpochReport], None] = lambda report: None
    should_stop: Callable[[], bool] = lambda: False
    checkpoint_every_s: float = CHECKPOINT_EVERY_S


NO_HOOKS = Hooks()
