"""Run training steps: eagerly, or replayed as one CUDA graph.

A training step of a ResNet-8 with batch size 128 has about 160 operations, mostly kernels of a few microseconds. Python
takes several times as long to launch them as a large GPU takes to execute them. One call launches them all as a graph,
from the batch's views to the optimizer. This requires every input of a step to stay at a fixed address on the device:
the epoch's order, learning rates, weights of loss terms, progress, sums, and the step's number.

In tests `DeviceSteps` also runs on a CPU, without a capture, and its results are bit-identical to `EagerSteps`.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

from raykd.data.loader import Batch, EpochOrder
from raykd.errors import RejectedConfiguration, reason_of
from raykd.training.failure import CaptureFailed
from raykd.training.host_state import changes, host_state
from raykd.training.optim import learning_rate, lr_scale, set_learning_rate
from raykd.training.sums import EpochSums
from raykd.training.training_step import TrainState

# Eager steps of the run before its graph is captured: cuDNN autotunes, the optimizer allocates its state, Inductor
# compiles. None of these can be captured.
WARM_UP_STEPS = 3


def _new_sums(training: TrainState, weights: dict[str, float]) -> EpochSums:
    metrics = ("top1",) if training.run.model.classifier else ()
    names = (*dict.fromkeys((*weights, *metrics)), "loss")
    return EpochSums(names, training.compute.device, training.group, training.problem_of_teacher)


def _rate(training: TrainState, epoch: int, step: int) -> float:
    return learning_rate(training.run.recipe, epoch, step, training.loader.steps_per_epoch)


def _progress(training: TrainState, epoch: int, step: int) -> float:
    """Return the share of the run's steps that are done before a step."""
    num_steps = training.loader.steps_per_epoch
    return (epoch * num_steps + step) / (training.run.recipe.epochs * num_steps)


@cache
def capture_stream(device: torch.device) -> torch.cuda.Stream:
    """Return the stream of all captures of this process.

    torch never frees the workspace of cuBLAS for a stream, which takes 32 MiB of a Hopper GPU in each of two threads.
    """
    return torch.cuda.Stream(device)


class EagerSteps:
    """Run the steps of a run in order, without waiting for the device. Every kernel is launched from Python."""

    def __init__(self, training: TrainState) -> None:
        self._training, self._epoch = training, 0
        self._weights: dict[str, float] = {}
        self._batches: Iterator[Batch] = iter(())

    def start_epoch(self, epoch: int, first_step: int) -> None:
        """Prepare `epoch` from step `first_step` on, with empty sums."""
        self._epoch, self._weights = epoch, self._training.term_weights(epoch)
        self._batches = self._training.loader.epoch(epoch, first_step)
        self.sums = _new_sums(self._training, self._weights)

    def run_step(self, step: int) -> None:
        """Run the next step, number `step` of the epoch."""
        training = self._training
        set_learning_rate(training.optimizer, _rate(training, self._epoch, step))
        share = _progress(training, self._epoch, step)
        progress = torch.full((), share, dtype=torch.float32, device=training.compute.device)
        self.sums.add(training.step(next(self._batches), self._weights, progress), step)


class DeviceSteps:
    """Run steps as EagerSteps does, with all inputs on the device.

    On a GPU a step is captured as one CUDA graph, and captured again if the loss terms change.

    The first steps before each capture are launched from Python as a warm-up. They are steps of the run like all
    others.
    """

    def __init__(self, training: TrainState) -> None:
        self._training = training
        device = training.compute.device
        self._captures = device.type == "cuda"
        self._stream = capture_stream(device) if self._captures else None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._num_steps = 0
        self._changed: list[set[str]] = []  # by each step of the warm-up, see host_state.py
        self._step = torch.zeros(1, dtype=torch.int64, device=device)
        # Fused GPU kernels read a float32 learning rate; on a CPU float64 keeps all bits of Python's float.
        dtype = torch.float32 if self._captures else torch.float64
        groups = training.optimizer.param_groups
        self._lr_scales = list(dict.fromkeys(map(lr_scale, groups)))
        # Progress and learning rates: of all steps of the epoch, and of this one. Together they take one kernel.
        self._schedule = torch.zeros(
            1 + len(self._lr_scales), training.loader.steps_per_epoch, dtype=dtype, device=device
        )
        self._now = torch.zeros(1 + len(self._lr_scales), 1, dtype=dtype, device=device)
        for group in groups:
            group["lr"] = self._now[1 + self._lr_scales.index(lr_scale(group)), 0]
        self._order: EpochOrder | None = None
        self._names: tuple[str, ...] = ()

    def start_epoch(self, epoch: int, first_step: int) -> None:
        training = self._training
        order, weights = training.loader.order(epoch), training.term_weights(epoch)
        if self._order is None:
            self._order = order
        else:
            self._order.copy_(order)
        if tuple(weights) != self._names:  # the loss terms have changed, so the captured graph is invalid
            self._names, self._graph, self._num_steps, self._changed = tuple(weights), None, 0, []
            self._weights = torch.zeros(len(weights), device=training.compute.device)
            self.sums = _new_sums(training, weights)
        steps = range(training.loader.steps_per_epoch)
        progress, rates = ([of(training, epoch, step) for step in steps] for of in (_progress, _rate))
        schedule = [progress, *([rate * scale for rate in rates] for scale in self._lr_scales)]
        self._schedule.copy_(torch.tensor(schedule, dtype=self._schedule.dtype))
        self._weights.copy_(torch.tensor([*weights.values()]))
        self._step.fill_(first_step)
        self.sums.clear()

    def run_step(self, step: int) -> None:
        if self._graph is None and self._captures and self._num_steps >= WARM_UP_STEPS:
            self._require_equal_steps()
            self._graph = self._capture()
        if self._graph is not None:
            self._graph.replay()
        elif self._captures:
            before = host_state(self._training.objective)
            self._launch_on_side_stream()
            self._changed.append(changes(before, host_state(self._training.objective)))
        else:
            self._launch()
        self._num_steps += 1

    def _launch(self) -> None:
        """Launch the kernels of a step, which the graph records."""
        training, order = self._training, self._order
        assert order is not None
        torch.index_select(self._schedule, 1, self._step, out=self._now)
        batch = training.loader.batch(order, training.loader.positions_on_device(self._step))
        weights = dict(zip(self._names, self._weights.unbind(), strict=True))
        terms = training.step(batch, weights, self._now[0, 0].float())
        self.sums.add(terms, self._step)
        self._step += 1

    def _launch_on_side_stream(self) -> None:
        """Launch a step on the stream of the capture, since autograd's nodes must not belong to the default stream."""
        assert self._stream is not None
        main = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(main)
        with torch.cuda.stream(self._stream):
            self._launch()
        main.wait_stream(self._stream)

    def _require_equal_steps(self) -> None:
        """Raise RejectedConfiguration if every step but the first changes something that a graph does not replay.

        With step=graph the user asserts that it does not affect the result.
        """
        changed, run = sorted(set.intersection(*self._changed[1:])), self._training.run
        if changed and run.recipe.step == "auto":
            raise RejectedConfiguration(
                f"{run.role}.step = auto: each training step changes {changed[0]}, and a CUDA graph would not; use "
                f"--set {run.role}.step=eager, or step=graph if no result depends on it"
            )

    def _capture(self) -> torch.cuda.CUDAGraph:
        """Record a step without running it. Raises CaptureFailed if a graph cannot capture it."""
        graph, run = torch.cuda.CUDAGraph(), self._training.run
        self._training.optimizer.zero_grad(set_to_none=True)  # gradients must be allocated in the graph's memory pool
        # "thread_local", since other threads, such as the energy meter, may call CUDA during the capture.
        try:
            with (
                _without_garbage_collection(),
                torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"),
            ):
                self._launch()
        except torch.OutOfMemoryError:
            raise  # torch has ended the capture, so this process can still use the GPU
        except RuntimeError as error:
            if isinstance(error.__context__, torch.OutOfMemoryError):
                raise error.__context__ from None
            raise CaptureFailed(
                f"{run.name}: its training step cannot be captured as a CUDA graph ({_first_reason(error)}); "
                f"use --set {run.role}.step=eager"
            ) from error
        return graph


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Prevent Python from deleting the graph of an earlier run, which would invalidate a capture in progress.

    From torch 2.9 on, torch.cuda.graph collects no garbage before it starts (github.com/pytorch/pytorch/pull/161037).
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _first_reason(error: RuntimeError) -> str:
    """Return why a capture failed. After an invalid operation, torch's end of the capture raises another error."""
    return reason_of(error.__context__ if isinstance(error.__context__, RuntimeError) else error)


Steps = EagerSteps | DeviceSteps


def make_steps(training: TrainState) -> Steps:
    """Return the runner of the steps of `training`, after its `parallelize` was called."""
    return DeviceSteps(training) if training.uses_cuda_graph else EagerSteps(training)
