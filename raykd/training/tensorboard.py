"""A run's epochs as TensorBoard event files."""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from raykd.training.hooks import EpochReport


class TensorBoard:
    """Writes loss terms, accuracies, learning rate and speed per epoch; opened at the first of them."""

    def __init__(self, folder: Path, setting: Mapping[str, Any] | None = None) -> None:
        """setting: of a trial, {dotted path: value}; TensorBoard's HPARAMS has it beside the last epoch's accuracy."""
        self._folder, self._setting = folder, setting
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
            self._writer = self._open(report)
        scalars = {f"loss/{name}": value for name, value in report.terms.items()} | {
            "top1/train": report.train_top1,
            "top1/val": report.val_top1,
            "loss/val": report.val_loss,
            "lr": report.lr,
            "images_per_s": report.images_per_s,
        }
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, report.epoch)

    def _open(self, first: EpochReport) -> Any:
        from torch.utils.tensorboard.summary import hparams
        from torch.utils.tensorboard.writer import SummaryWriter

        writer = SummaryWriter(str(self._folder), purge_step=first.epoch)
        if self._setting and writer.file_writer is not None:
            begun, named, _ = hparams(dict(self._setting), {"top1/val": first.val_top1})
            for summary in (begun, named):  # the third would say that it ended
                writer.file_writer.add_summary(summary)
        return writer
