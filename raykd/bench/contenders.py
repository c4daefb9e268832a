"""What takes turns in a benchmark: the bare step, the real loop, the usual way, the filling of a logit cache.

Each does one round of the same number of steps when it is asked, and tells what that took.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from raykd.bench.usual import UsualWay
from raykd.data.loader import Batch
from raykd.data.types import Dataset
from raykd.outputs import Outputs
from raykd.spec.plan import Run
from raykd.store.run_folder import RunFolder
from raykd.training.compute import GLIBC_DEFAULT, Compute, configure_process, set_malloc
from raykd.training.hooks import Hooks
from raykd.training.loop import train_epochs
from raykd.training.state import make_train_state
from raykd.training.teacher.sources import Teacher


@dataclass(frozen=True)
class Round:
    """steps_s: of the training steps alone. epoch_s: with all that an epoch has, validation included."""

    steps_s: float
    epoch_s: float


class Contender(Protocol):
    def round(self) -> Round:
        """One round of training steps, the same number for all."""
        ...


class PrecomputedTeacher:
    """A teacher that has the batch's logits before it is asked."""

    identity, source = "", "cache"

    def __init__(self, logits: Tensor) -> None:
        self._outputs = Outputs(logits)

    def __call__(self, batch: Batch) -> Outputs:
        return self._outputs


class BareSteps:
    """The same steps on views that were rendered before and a target that is at hand: what the loop may cost."""

    def __init__(self, run: Run, dataset: Dataset, teacher: Teacher, compute: Compute) -> None:
        self._training = make_train_state(run, dataset, compute, teacher)
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
    """The loop itself, an epoch at a time, in the thread of all others: a second pool of CPU threads would slow it.

    A run saves a checkpoint a minute, in some tenths of a second. Rounds are minutes apart, so none is saved in them.
    """

    def __init__(self, run: Run, dataset: Dataset, teacher: Teacher, compute: Compute, folder: Path) -> None:
        training = make_train_state(run, dataset, compute, teacher)
        self._device, self._images = compute.device, training.loader.steps_per_epoch * run.recipe.batch_size
        self._epochs = train_epochs(training, RunFolder(folder), Hooks(checkpoint_every_s=float("inf")))

    def round(self) -> Round:
        began = now(self._device)
        report = next(self._epochs)
        return Round(self._images / report.images_per_s, now(self._device) - began)


class Usual:
    """The usual way's epoch, under the C library's own settings."""

    def __init__(self, way: UsualWay, device: torch.device) -> None:
        self._way, self._device = way, device

    def round(self) -> Round:
        set_malloc(GLIBC_DEFAULT)
        began = now(self._device)
        self._way.epoch()
        steps_s = now(self._device) - began
        self._way.validate()
        epoch_s = now(self._device) - began
        configure_process(self._device)
        return Round(steps_s, epoch_s)


def now(device: torch.device) -> float:
    """Seconds, once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
