"""The implementations in the benchmark: the step without the loop, raykd's loop and the standard pipeline.

They alternate in rounds. In a round each implementation runs the same number of steps and returns the seconds.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from raykd.bench.standard_pipeline import StandardPipeline
from raykd.data.loader import Batch
from raykd.data.types import Dataset
from raykd.outputs import Outputs
from raykd.spec.plan import Run
from raykd.store.records import TeacherSource
from raykd.store.run_folder import RunFolder
from raykd.training.compute import GLIBC_DEFAULT, Compute, configure_process, set_malloc
from raykd.training.hooks import Hooks
from raykd.training.loop import train_epochs
from raykd.training.teacher.sources import Teacher
from raykd.training.training_step import make_train_state


@dataclass(frozen=True)
class Round:
    """steps_s: seconds of the training steps. epoch_s: seconds of the whole epoch with validation."""

    steps_s: float
    epoch_s: float


class Implementation(Protocol):
    """An implementation of the training; a round has the same number of steps for all implementations."""

    def round(self) -> Round: ...


class PrecomputedTeacher:
    """A teacher that returns precomputed logits."""

    identity = ""
    source: TeacherSource = "cache"
    top_classes = None

    def __init__(self, logits: Tensor) -> None:
        self._outputs = Outputs(logits)

    def network(self) -> None:
        return

    def __call__(self, batch: Batch) -> Outputs:
        return self._outputs


class StepsWithoutLoop:
    """The loop's training steps without the loop, on prerendered views."""

    def __init__(self, run: Run, dataset: Dataset, teacher: Teacher, compute: Compute) -> None:
        self._training = make_train_state(run, dataset, compute, teacher)
        self._training.objective.train()
        self._batches = list(self._training.loader.epoch(0))
        self._weights = run.method.weights(0)

    def round(self) -> Round:
        start = now(self._training.compute.device)
        for batch in self._batches:
            self._training.step(batch, self._weights)
        seconds = now(self._training.compute.device) - start
        return Round(seconds, seconds)


class Loop:
    """raykd's loop, one epoch per round, in the main thread, since a second pool of CPU threads would slow it.

    It saves no checkpoints; a run saves one every minute, which takes a few tenths of a second.
    """

    def __init__(self, run: Run, dataset: Dataset, teacher: Teacher, compute: Compute, folder: Path) -> None:
        training = make_train_state(run, dataset, compute, teacher)
        self._device, self._images = compute.device, training.loader.steps_per_epoch * run.recipe.batch_size
        self._epochs = train_epochs(training, RunFolder(folder), Hooks(checkpoint_every_s=float("inf")))

    def round(self) -> Round:
        start = now(self._device)
        report = next(self._epochs)
        return Round(self._images / report.images_per_s, now(self._device) - start)


class StandardEpochs:
    """Epochs of the standard pipeline, with glibc's default malloc settings."""

    def __init__(self, pipeline: StandardPipeline, device: torch.device) -> None:
        self._pipeline, self._device = pipeline, device

    def round(self) -> Round:
        set_malloc(GLIBC_DEFAULT)
        start = now(self._device)
        self._pipeline.epoch()
        steps_s = now(self._device) - start
        self._pipeline.validate()
        epoch_s = now(self._device) - start
        configure_process(self._device)
        return Round(steps_s, epoch_s)


def now(device: torch.device) -> float:
    """Return the time in seconds after the device has finished all work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
