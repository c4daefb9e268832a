"""A run's epochs as TensorBoard event files."""

from pathlib import Path
from types import TracebackType
from typing import Self

from raykd.training.hooks import EpochReport


class TensorBoard:
    """Writes loss terms, accuracies, learning rate and speed per epoch; opened at the first of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()

    def add(self, report: EpochReport) -> None:
        """One epoch. After a resume, epochs that are trained again replace what was written of them."""
        if self._writer is None:
            from torch.utils.tensorboard.writer import SummaryWriter

            self._writer = SummaryWriter(str(self._folder), purge_step=report.epoch)
        scalars = {f"loss/{name}": value for name, value in report.terms.items()} | {
            "top1/train": report.train_top1,
            "top1/val": report.val_top1,
            "loss/val": report.val_loss,
            "lr": report.lr,
            "images_per_s": report.images_per_s,
        }
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, report.epoch)
