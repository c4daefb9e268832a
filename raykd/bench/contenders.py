"""What takes turns in a benchmark: the bare step, the real loop, the usual way, the filling of a table.

Each does one round of the same number of steps when it is asked, and tells what that took.
"""

import queue
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from raykd.bench.usual import UsualWay
from raykd.data.dataset import Dataset
from raykd.data.loader import Batch
from raykd.outputs import Outputs
from raykd.plan import Run
from raykd.run_folder import RunFolder
from raykd.training.compute import Compute
from raykd.training.loop import EpochReport, Hooks, fit
from raykd.training.teachers import Teacher
from raykd.training.training import make_training

TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Round:
    """steps_s: of the training steps alone. epoch_s: with all that an epoch has, validation included."""

    steps_s: float
    epoch_s: float


class Contender(Protocol):
    def round(self) -> Round:
        """One round of training steps, the same number for all."""
        ...


class AtHand:
    """A teacher that has the batch's logits before it is asked."""

    identity, source = "", "table"

    def __init__(self, logits: Tensor) -> None:
        self._outputs = Outputs(logits)

    def __call__(self, batch: Batch) -> Outputs:
        return self._outputs


class BareSteps:
    """The same steps on views that were rendered before and a target that is at hand: what the loop may cost."""

    def __init__(self, run: Run, dataset: Dataset, teacher: Teacher, compute: Compute) -> None:
        self._training = make_training(run, dataset, compute, teacher)
        self._training.objective.train()
        self._batches = list(self._training.loader.epoch(0))
        self._weights = run.method.weights(0)

    def round(self) -> Round:
        began = now(self._training.compute.device)
        for batch in self._batches:
            self._training.step(batch, self._weights)
        seconds = now(self._training.compute.device) - began
        return Round(seconds, seconds)


class Loop:
    """`fit`, in a thread that waits between two epochs until it is its turn again."""

    def __init__(self, run: Run, dataset: Dataset, teacher: Teacher, compute: Compute) -> None:
        self._go, self._done = threading.Semaphore(0), queue.SimpleQueue[EpochReport | BaseException]()
        self._device, self._steps = compute.device, _steps(run, dataset)
        self._batch_size = run.recipe.batch_size
        self._over = False

        def train() -> None:
            torch.set_num_threads(compute.threads)  # each thread has its own number
            self._go.acquire()
            try:
                with tempfile.TemporaryDirectory() as folder:
                    hooks = Hooks(self._next, lambda: self._over)
                    fit(run, dataset, RunFolder(Path(folder)), compute.device, teacher, hooks)
            except BaseException as error:  # noqa: BLE001 - raised again where the round was asked for
                self._done.put(error)

        threading.Thread(target=train, daemon=True).start()

    def _next(self, report: EpochReport) -> None:
        self._done.put(report)
        self._go.acquire()

    def round(self) -> Round:
        began = now(self._device)
        self._go.release()
        report = self._done.get(timeout=TIMEOUT_S)
        if isinstance(report, BaseException):
            raise report
        return Round(self._steps * self._batch_size / report.images_per_s, now(self._device) - began)

    def end(self) -> None:
        """Stop before the next epoch's second step."""
        self._over = True
        self._go.release()
        self._done.get(timeout=TIMEOUT_S)


class Usual:
    """The usual way's epoch."""

    def __init__(self, way: UsualWay, device: torch.device) -> None:
        self._way, self._device = way, device

    def round(self) -> Round:
        began = now(self._device)
        self._way.epoch()
        steps_s = now(self._device) - began
        self._way.validate()
        return Round(steps_s, now(self._device) - began)


def now(device: torch.device) -> float:
    """Seconds, once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _steps(run: Run, dataset: Dataset) -> int:
    return (len(dataset.train) - run.data.val_images) // run.recipe.batch_size
