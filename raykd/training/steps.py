"""How the steps of a run are taken: launched kernel by kernel from Python, or replayed as one CUDA graph.

A ResNet-8's training step of batch 128 is about 160 operations, most of them kernels of a few microseconds, and Python
takes several times as long to launch them as a large GPU takes to compute them. As one graph, from the batch's views to
the optimizer, they are launched by one call. For that every input of a step has to lie on the device at an address that
stays: the epoch's order, the learning rates, the weights of the loss terms, the sums, and the number of the step.

`DeviceSteps` does the same work without a capture on a CPU, where it gives the bits of `EagerSteps`.
"""

from collections.abc import Iterator
from typing import Protocol

import torch

from raykd.data.loader import Batch, EpochOrder
from raykd.errors import RunFailed, one_line
from raykd.training.optim import learning_rate, set_learning_rate
from raykd.training.state import TrainState
from raykd.training.sums import EpochSums

# Real steps of the run before its graph is captured: cuDNN tries its kernels, the optimizer makes its state, Inductor
# compiles. None of these can be captured.
WARM_UP_STEPS = 3


class Steps(Protocol):
    """Takes the steps of a run, in order; nothing in it waits for the device."""

    sums: EpochSums

    def begin(self, epoch: int, first_step: int) -> None:
        """Stand before step `first_step` of `epoch`, with sums that are empty."""
        ...

    def take(self, step: int) -> None:
        """Take the next step, which is number `step` of the epoch."""
        ...


def make_steps(training: TrainState) -> Steps:
    """Return how the steps of `training` are taken; to be called once its `parallelize` has been."""
    return DeviceSteps(training) if training.is_graph else EagerSteps(training)


def _new_sums(training: TrainState, weights: dict[str, float]) -> EpochSums:
    names = (*dict.fromkeys((*weights, "top1")), "loss")
    return EpochSums(names, training.compute.device, training.group)


def _rate(training: TrainState, epoch: int, step: int) -> float:
    return learning_rate(training.run.recipe, epoch, step, training.loader.steps_per_epoch)


class EagerSteps:
    """Launches every kernel of a step from Python."""

    def __init__(self, training: TrainState) -> None:
        self._training, self._epoch = training, 0
        self._weights: dict[str, float] = {}
        self._batches: Iterator[Batch] = iter(())

    def begin(self, epoch: int, first_step: int) -> None:
        self._epoch, self._weights = epoch, self._training.run.method.weights(epoch)
        self._batches = self._training.loader.epoch(epoch, first_step)
        self.sums = _new_sums(self._training, self._weights)

    def take(self, step: int) -> None:
        training = self._training
        set_learning_rate(training.optimizer, _rate(training, self._epoch, step))
        self.sums.add(training.step(next(self._batches), self._weights), step)


class DeviceSteps:
    """Takes steps whose inputs all lie on the device; on a GPU as one CUDA graph, which is captured once.

    The first steps are launched from Python: they warm up, and they are steps of the run like all others.
    """

    def __init__(self, training: TrainState) -> None:
        self._training = training
        device = training.compute.device
        self._captures = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if self._captures else None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._taken = 0
        self._step = torch.zeros(1, dtype=torch.int64, device=device)
        # Fused kernels on a GPU read a learning rate of float32; on a CPU float64 keeps every bit of Python's number.
        dtype = torch.float32 if self._captures else torch.float64
        self._rates = torch.zeros(training.loader.steps_per_epoch, dtype=dtype, device=device)
        self._rate = torch.zeros((), dtype=dtype, device=device)
        for group in training.optimizer.param_groups:
            group["lr"] = self._rate
        self._order: EpochOrder | None = None
        self._names: tuple[str, ...] = ()

    def begin(self, epoch: int, first_step: int) -> None:
        training = self._training
        order, weights = training.loader.order(epoch), training.run.method.weights(epoch)
        if self._order is None:
            self._order = order
        else:
            self._order.copy_(order)
        if tuple(weights) != self._names:  # of another epoch, with other terms: what was captured is of no use
            self._names, self._graph, self._taken = tuple(weights), None, 0
            self._weights = torch.zeros(len(weights), device=training.compute.device)
            self.sums = _new_sums(training, weights)
        rates = [_rate(training, epoch, step) for step in range(training.loader.steps_per_epoch)]
        self._rates.copy_(torch.tensor(rates, dtype=self._rates.dtype))
        self._weights.copy_(torch.tensor([*weights.values()]))
        self._step.fill_(first_step)
        self.sums.clear()

    def take(self, step: int) -> None:
        if self._graph is None and self._captures and self._taken >= WARM_UP_STEPS:
            self._graph = self._captured()
        if self._graph is not None:
            self._graph.replay()
        elif self._stream is not None:
            self._on_side_stream()
        else:
            self._launch()
        self._taken += 1

    def _launch(self) -> None:
        """Launch what a step computes: what the graph records."""
        training, order = self._training, self._order
        assert order is not None
        torch.index_select(self._rates, 0, self._step, out=self._rate.view(1))
        batch = training.loader.batch(order, training.loader.positions(self._step))
        terms = training.step(batch, dict(zip(self._names, self._weights.unbind(), strict=True)))
        self.sums.add(terms, self._step)
        self._step += 1

    def _on_side_stream(self) -> None:
        """Launch a step where a capture will be: what autograd makes there must not belong to the default stream."""
        assert self._stream is not None
        main = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(main)
        with torch.cuda.stream(self._stream):
            self._launch()
        main.wait_stream(self._stream)

    def _captured(self) -> torch.cuda.CUDAGraph:
        """Record a step without taking it. Raises RunFailed where it does what a graph cannot hold."""
        graph, run = torch.cuda.CUDAGraph(), self._training.run
        self._training.optimizer.zero_grad(set_to_none=True)  # the gradients will lie in the graph's own memory
        # Other threads, such as the one that counts joules, may call CUDA meanwhile.
        try:
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                self._launch()
        except RuntimeError as error:
            who = "teacher" if run.stage == "teacher" else "student"
            raise RunFailed(
                f"{run.name}: its training step cannot be captured as a CUDA graph ({one_line(str(error))}); "
                f"--set {who}.step=eager launches each step from Python"
            ) from error
        return graph
