"""The workers of one run: processes that share each of its batches, with the first in charge of its files.

    worker r of W renders, predicts and differentiates images [r B/W, (r+1) B/W) of each batch of B;
    gradients are averaged (DDP, arXiv:2006.15704), so all take the step that one alone would take on B.

The result equals one worker's up to rounding, with these exceptions: batch norm has statistics of a worker's own B/W
images unless the recipe has sync_batch_norm, and dropout and CRD's negatives are drawn by each worker for itself.
Methods that relate the images of a batch (`Method.relates_images`) get the outputs for all B images on every worker, by
`Group.join`. Small messages go over gloo (CPU), so that no step waits for a GPU to learn who stops.

What several workers of a run do differently from one worker, beyond rounding.
"""

import socket
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cache
from inspect import signature
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.parallel import DistributedDataParallel

from raykd.errors import ConfigError
from raykd.spec.plan import Run
from raykd.training.compute import is_mig_instance

Value = TypeVar("Value")
STUCK = timedelta(minutes=30)  # torch's own limit for a message between workers; Ray notices a dead one in seconds

# Buffers are copied once an epoch, before they are used; training mode only writes them. torch 2.15 renamed it.
_NO_SYNC: dict[str, Any] = {
    "forward_sync_buffers"
    if "forward_sync_buffers" in signature(DistributedDataParallel).parameters
    else "broadcast_buffers": False
}


@dataclass(frozen=True)
class Group:
    """Worker `rank` of `size`. All must call the same methods in the same order: each waits for the others.

    may_shrink: a run that was begun by more or fewer workers is taken up all the same. It is then a `part` that trains,
    since a worker that is left out may wait for days, and one that trains must not.
    """

    rank: int = 0
    size: int = 1
    may_shrink: bool = False
    processes: Any = None  # torch's group of exactly these; None for all

    @property
    def is_first(self) -> bool:
        """Whether this worker reads and writes the run's files."""
        return self.rank == 0

    @property
    def is_member(self) -> bool:
        """False for a worker of the whole that a `part` leaves out."""
        return self.rank < self.size

    def subgroup(self, batch_size: int) -> "Group":
        """As many of the first workers as can share a batch equally: what is left of four may be three."""
        size = max(count for count in range(1, self.size + 1) if batch_size % count == 0)
        if size == self.size and not self.may_shrink:
            return self
        return replace(self, size=size, processes=_processes(size) if size > 1 else None)

    def on_first(self, make: Callable[[], Value]) -> Value:
        """What `make` gives the first worker, handed to all; the others do not call it."""
        values: list[Any] = [make() if self.is_first else None]
        if self.size > 1:
            dist.broadcast_object_list(values, src=0, group=self.processes)
        return values[0]

    def broadcast_flags(self, *flags: bool) -> tuple[bool, ...]:
        """The first worker's flags, so that all stop, or save, at the same step."""
        if self.size == 1:
            return flags
        decided = torch.tensor(flags, dtype=torch.uint8)
        dist.broadcast(decided, src=0, group=self.processes)
        return tuple(map(bool, decided.tolist()))

    def gather(self, tensor: Tensor) -> Tensor:
        """[*] of each worker -> [W, *], by rank: what is then added is added in the same order everywhere."""
        if self.size == 1:
            return tensor[None]
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(parts, tensor, group=self.processes)
        return torch.stack(parts)

    def gather_with_grad(self, tensor: Tensor) -> Tensor:
        """Return the batch's rows [B, *] from each worker's [B/W, *], by rank, with the gradient that DDP requires.

        Every worker then computes the same loss of all B rows.
        """
        if self.size == 1:
            return tensor
        if not tensor.numel():
            return tensor.repeat(self.size, *[1] * (tensor.dim() - 1))
        return _joined(tensor, self)  # pyright: ignore[reportCallIssue]  # a decorator of torch without types

    def copy_buffers(self, module: nn.Module) -> None:
        """Give all the first worker's buffers (batch norm's running statistics), which are what is saved."""
        if self.size > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, src=0, group=self.processes)

    def wrap(self, module: nn.Module, device: torch.device) -> nn.Module:
        """`module` with its gradients averaged over the workers, its weights and buffers the first worker's."""
        if self.size == 1:
            return module
        devices = [device] if device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=devices, process_group=self.processes, **_NO_SYNC)


SINGLE_WORKER = Group()


@torch.compiler.disable  # messages between workers are no part of a compiled graph
def _joined(tensor: Tensor, group: Group) -> Tensor:
    return _Join.apply(tensor, group)  # type: ignore[no-any-return]


class _Join(torch.autograd.Function):
    """Concatenate all workers' rows; backward returns W times the gradient of the worker's own rows.

    All workers compute the same loss L of the same rows, so each knows dL/d(its rows) without another message. DDP
    divides the sum of the workers' gradients by W. The factor W makes it the gradient of L by one worker.
    """

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return group.gather(tensor.contiguous()).flatten(0, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (gradient,), group = gradients, ctx.group
        return gradient.chunk(group.size)[group.rank] * group.size, None


def require_separate_gpus(group: Group, device: torch.device) -> None:
    """Raise ConfigError in all workers of `group` where two of them compute on MIG instances of one node.

    CUDA shows a process one instance, and NCCL refuses two workers on one GPU. All workers call this.
    """
    if group.size == 1:
        return
    node = zlib.crc32(socket.gethostname().encode()) if is_mig_instance(device) else 0
    nodes = [found for found in group.gather(torch.tensor([node])).flatten().tolist() if found]
    if len(set(nodes)) < len(nodes):
        raise ConfigError(
            f"workers.count = {group.size}: several workers of one run cannot train on MIG instances of one node; "
            "set workers.count=1, or request whole GPUs"
        )


def default_group(may_shrink: bool = False) -> Group:
    """All processes of torch's default group; this one alone where there is none."""
    if not dist.is_initialized():
        return Group(may_shrink=may_shrink)
    return Group(dist.get_rank(), dist.get_world_size(), may_shrink)


@cache
def _processes(size: int) -> Any:
    """torch's group of the first `size`; all processes make it, members or not."""
    return dist.new_group(range(size), timeout=STUCK)


BATCH_NORM = "batch norm statistics"


def per_worker_parts(run: Run, *modules: nn.Module) -> tuple[str, ...]:
    """Return what each of several workers of `run` computes or draws for itself, in words.

    modules: the networks that are trained: the model and, where there is one, the method's adapter.
    """
    layers = [layer for module in modules for layer in module.modules()]
    parts = []
    if not run.recipe.sync_batch_norm and any(isinstance(layer, _BatchNorm) for layer in layers):
        parts.append(BATCH_NORM)
    if any(isinstance(layer, _DropoutNd) and layer.p > 0 for layer in layers):
        parts.append("dropout")
    if run.method.drawn_per_worker:
        parts.append(run.method.drawn_per_worker)
    return tuple(parts)
