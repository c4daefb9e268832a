"""Time the training loop from outside, through `train_epochs` and its hooks alone, however its steps are launched."""

import gc
import statistics
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from gpu_parts.setting import ONE_BY_ONE, Subject
from raykd.bench.implementations import now
from raykd.data.types import Dataset
from raykd.store.run_folder import RunFolder
from raykd.training.compute import choose_compute, configure_process
from raykd.training.hooks import Hooks
from raykd.training.loop import train_epochs
from raykd.training.training_step import make_train_state

FIRST_STEPS = 5  # of an epoch; their launches fit into the GPU's queue (1,024), so the host does not wait


@dataclass(frozen=True)
class Epoch:
    """Seconds of one epoch: of its steps, of the whole epoch with validation, and of the host to queue one step.

    host_step_s: median interval between the first steps of the epoch. queued_step_s: mean over all of them.
    """

    steps_s: float
    epoch_s: float
    host_step_s: float
    queued_step_s: float


class TimedLoop:
    """The loop of one subject, one epoch at a time. Building it and its first epoch are the warm-up."""

    def __init__(self, subject: Subject, way: str, dataset: Dataset, device: torch.device, folder: Path) -> None:
        configure_process(device)
        self._device, self._stamps = device, []
        run = subject.launched(way)
        compute = choose_compute(device, run.recipe.precision)
        training = make_train_state(run, dataset, compute, subject.teacher(dataset, device))
        training.casts_together = way != ONE_BY_ONE
        self.steps, self.batch_size = training.loader.steps_per_epoch, run.recipe.batch_size
        hooks = Hooks(should_stop=self._stamp, checkpoint_every_s=float("inf"))
        self._epochs = train_epochs(training, RunFolder(folder), hooks)

    def epoch(self) -> Epoch:
        """Train one epoch."""
        self._stamps.clear()
        start_s = now(self._device)
        report = next(self._epochs)
        epoch_s = now(self._device) - start_s
        steps_s = self.steps * self.batch_size / report.images_per_s
        stamps = self._stamps
        intervals = [later - earlier for earlier, later in pairwise(stamps)]
        first = intervals[: FIRST_STEPS - 1] or [steps_s]
        return Epoch(steps_s, epoch_s, statistics.median(first), sum(intervals) / max(1, len(intervals)))

    @property
    def stamps(self) -> list[float]:
        """time.perf_counter() after each step that the host queued in the last epoch."""
        return self._stamps

    def _stamp(self) -> bool:
        self._stamps.append(time.perf_counter())
        return False


def step_figures(
    subject: Subject, way: str, device: torch.device, folder: Path, rounds: int, limit_s: float
) -> dict[str, Any]:
    """Return milliseconds per step, images/s, warm-up, host time and peak memory of a subject launched in one way.

    rounds: epochs after the first; fewer if they would take more than `limit_s` seconds, but at least one.
    """
    dataset = subject.family.dataset()
    before = reset_memory(device)
    start_s = now(device)
    loop = TimedLoop(subject, way, dataset, device, folder)
    first = loop.epoch()
    warm_up_s = now(device) - start_s
    until, epochs = time.perf_counter() + limit_s, []
    while len(epochs) < rounds and (not epochs or time.perf_counter() + epochs[-1].epoch_s < until):
        epochs.append(loop.epoch())
    steps_ms = [1e3 * epoch.steps_s / loop.steps for epoch in epochs]
    figures = {
        "ms_per_step": statistics.median(steps_ms),
        "fastest_ms": min(steps_ms),
        "slowest_ms": max(steps_ms),
        "images_per_s": loop.batch_size * 1e3 / statistics.median(steps_ms),
        "rounds": len(epochs),
        "steps_in_round": loop.steps,
        "warm_up_s": warm_up_s,
        "first_epoch_steps_s": first.steps_s,
        "host_ms_per_step": 1e3 * statistics.median(epoch.host_step_s for epoch in epochs),
        "queued_ms_per_step": 1e3 * statistics.median(epoch.queued_step_s for epoch in epochs),
        "epoch_s": statistics.median(epoch.epoch_s for epoch in epochs),
    }
    return figures | memory_since(device, before)


def reset_memory(device: torch.device) -> int:
    """Free unused memory and reset the peaks. Return the bytes that are still allocated on a GPU."""
    gc.collect()
    if device.type != "cuda":
        return 0
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def memory_since(device: torch.device, before: int) -> dict[str, Any]:
    """Return the peaks since `reset_memory` in MiB, less what was allocated then."""
    if device.type != "cuda":
        return {}
    allocated = torch.cuda.max_memory_allocated(device) - before
    return {
        "peak_allocated_MiB": allocated / 2**20,
        "peak_reserved_MiB": (torch.cuda.max_memory_reserved(device) - before) / 2**20,
    }


def free(was_compiled: bool = False) -> None:
    """Free the memory of a subject that is no longer used, and torch.compile's state if it was compiled."""
    if was_compiled:
        torch.compiler.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
