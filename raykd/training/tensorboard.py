"""Write a run's epochs as TensorBoard event files."""

import io
import itertools
import logging
import os
import socket
import time
from collections.abc import Mapping
from math import isnan
from pathlib import Path
from typing import Any, BinaryIO

from raykd.outputs import HISTORY_COLUMNS
from raykd.training.hooks import EpochReport

_log = logging.getLogger(__name__)
BEST = "top1/best_val"  # of the epoch that is kept so far; HPARAMS shows the last value of a tag
_FILES = itertools.count()  # numbers this process's event files, which may be opened in the same second


class TensorBoard:
    """Writes loss terms, accuracies, learning rate and speed per epoch; opens its file at the first epoch.

    A file that cannot be written (quota, full disk) never fails a run: `add` logs the reason once, and the next epoch
    opens another file. Events are written synchronously in TensorBoard's record format. torch's SummaryWriter
    writes from a thread, which prints a traceback where a write fails, and raises the error again in `close`.
    """

    def __init__(self, folder: Path, hyperparameters: Mapping[str, Any] | None = None) -> None:
        """hyperparameters: the configuration of a trial, {dotted path: value}, for TensorBoard's HPARAMS."""
        self._folder, self._hyperparameters = folder, hyperparameters
        self._file: BinaryIO | None = None
        self._is_logged = False

    def add(self, report: EpochReport) -> None:
        """Write one epoch. After a resume, epochs that are trained again replace the earlier ones."""
        try:
            if self._file is None:
                self._open(report)
            self._write(step=report.epoch, summary=_summary(report))
        except OSError as error:
            self.close()
            if not self._is_logged:
                _log.warning(
                    "TensorBoard files in '%s' cannot be written (%s); training continues, and epochs from %d may be "
                    "missing there",
                    self._folder,
                    error,
                    report.epoch,
                )
            self._is_logged = True

    def _open(self, first: EpochReport) -> None:
        """Open a new file. It replaces epochs from `first` on in older files (TensorBoard's purge step)."""
        from torch.utils.tensorboard.summary import hparams

        self._folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{next(_FILES)}"
        self._file = (self._folder / name).open("wb", buffering=0)
        self._write(file_version="brain.Event:2")
        self._write(step=first.epoch, session_log={"status": "START"})
        if self._hyperparameters:
            experiment, session_start, _ = hparams(dict(self._hyperparameters), {BEST: first.best_val_top1})
            for summary in (experiment, session_start):  # the third would mark the trial as ended
                self._write(summary=summary)

    def _write(self, **event: Any) -> None:
        """Append one event with these fields. Raises OSError, also if only a part is written."""
        from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[attr-defined]
        from tensorboard.summary.writer.record_writer import RecordWriter

        assert self._file is not None
        record = io.BytesIO()
        RecordWriter(record).write(Event(wall_time=time.time(), **event).SerializeToString())
        if self._file.write(record.getvalue()) != len(record.getvalue()):
            raise OSError("the disk is full, or a quota is reached")

    def close(self) -> None:
        """Close the file. Errors are logged only, since every event was written before."""
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except OSError as error:
                _log.warning("a TensorBoard file in '%s' could not be closed (%s)", self._folder, error)


def _summary(report: EpochReport) -> dict[str, Any]:
    """Return all scalars of one epoch, as the fields of TensorBoard's Summary."""
    scalars = scalars_of(report.row(steps_per_epoch=0), report.best_val_top1)
    return {"value": [{"tag": name, "simple_value": value} for name, value in scalars.items()]}


def scalars_of(row: Mapping[str, float], best_val_top1: float) -> dict[str, float]:
    """Return an epoch's values by their names in every tracker.

    row: of history.parquet; its loss terms are 'loss/<term>'. best_val_top1: of the epochs so far, in percent. Those of
    validation are left out without validation images.
    """
    terms = {name: value for name, value in row.items() if name == "loss" or name not in HISTORY_COLUMNS}
    validation = {"top1/val": row["val_top1"], BEST: best_val_top1, "loss/val": row["val_loss"]}
    return (
        {f"loss/{name}": value for name, value in terms.items() if value is not None}
        | {"top1/train": row["train_top1"], "lr": row["lr"], "images_per_s": row["images_per_s"]}
        | {name: value for name, value in validation.items() if not isnan(value)}
    )
