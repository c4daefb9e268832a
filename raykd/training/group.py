"""The workers of one run: processes that share each batch (DDP). The first worker reads and writes the run's files.

    worker r of W renders, predicts and differentiates images [r B/W, (r+1) B/W) of each batch of B;
    gradients are averaged (DDP, arXiv:2006.15704), so all take the step that one worker would take on B.

The result equals one worker's up to rounding, with the exceptions that `per_worker_parts` lists: batch norm statistics
cover B/W images unless the recipe has sync_batch_norm, and dropout and CRD's negatives differ between workers. Methods
that relate the images of a batch (`Method.relates_images`) receive the outputs for all B images on every worker, by
`Group.gather_with_grad`. Small messages use gloo (CPU), so that no step waits for a GPU to decide whether to stop.
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
from raykd.training import messages
from raykd.training.compute import gpu_uuid, is_mig_instance

Value = TypeVar("Value")
STUCK = timedelta(minutes=30)  # torch's default timeout for messages; Ray notices a dead worker in seconds

# `copy_buffers` copies buffers once per epoch, before evaluation reads them. torch 2.15 renamed the parameter.
_NO_SYNC: dict[str, Any] = {
    "forward_sync_buffers"
    if "forward_sync_buffers" in signature(DistributedDataParallel).parameters
    else "broadcast_buffers": False
}


@dataclass(frozen=True)
class Group:
    """Worker `rank` of `size`. All must call the same methods in the same order, since each waits for the others.

    may_shrink: whether a run may resume with another number of workers than it started with. Then a `subgroup` trains,
    because a worker that is left out may wait for days.
    """

    rank: int = 0
    size: int = 1
    may_shrink: bool = False
    process_group: Any = None  # torch's process group of these workers; None for the default group

    @property
    def is_first(self) -> bool:
        """Whether this is the first worker, which reads and writes the run's files."""
        return self.rank == 0

    @property
    def is_member(self) -> bool:
        """Whether this worker belongs to the group; false if a `subgroup` leaves it out."""
        return self.rank < self.size

    def subgroup(self, batch_size: int) -> "Group":
        """Return the largest group of first workers that divides a batch equally."""
        size = max(count for count in range(1, self.size + 1) if batch_size % count == 0)
        if size == self.size and not self.may_shrink:
            return self
        return replace(self, size=size, process_group=_process_group(size) if size > 1 else None)

    def on_first(self, make: Callable[[], Value]) -> Value:
        """Call `make` on the first worker and return its result on all workers."""
        return make() if self.size == 1 else messages.broadcast(make, self.is_first, self.size, self.process_group)

    def broadcast_flags(self, *flags: bool) -> tuple[bool, ...]:
        """Return the first worker's flags, so that all make the same decisions."""
        return tuple(map(bool, self.broadcast_numbers(*flags)))

    def broadcast_numbers(self, *numbers: int) -> tuple[int, ...]:
        """Return the first worker's numbers, which fit in int64."""
        if self.size == 1:
            return numbers
        sent = torch.tensor(numbers, dtype=torch.int64)
        dist.broadcast(sent, src=0, group=self.process_group)
        return tuple(sent.tolist())

    def gather(self, tensor: Tensor) -> Tensor:
        """Return [W, *], the tensors [*] of all workers by rank, so that sums have the same order everywhere."""
        if self.size == 1:
            return tensor[None]
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(parts, tensor, group=self.process_group)
        return torch.stack(parts)

    def gather_with_grad(self, tensor: Tensor) -> Tensor:
        """Return the whole batch's rows [B, *] from each worker's [B/W, *], with the gradient that DDP requires.

        Every worker then computes the same loss over all B rows.
        """
        if self.size == 1:
            return tensor
        if not tensor.numel():
            return tensor.repeat(self.size, *[1] * (tensor.dim() - 1))
        return _Join.apply(tensor, self)  # type: ignore[no-any-return]

    def copy_buffers(self, module: nn.Module) -> None:
        """Copy the first worker's buffers (batch norm's running statistics), which are checkpointed, to all workers."""
        if self.size > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, src=0, group=self.process_group)

    def wrap(self, module: nn.Module, device: torch.device, has_unused_parameters: bool = False) -> nn.Module:
        """Return `module` in DDP: gradients averaged over workers, initial weights and buffers of the first worker.

        has_unused_parameters: whether the loss may be independent of some parameters.
        """
        if self.size == 1:
            return module
        devices = [device] if device.type == "cuda" else None
        return DistributedDataParallel(
            module,
            device_ids=devices,
            process_group=self.process_group,
            find_unused_parameters=has_unused_parameters,
            **_NO_SYNC,
        )


SINGLE_WORKER = Group()


class _Join(torch.autograd.Function):
    """Concatenate all workers' rows; backward returns W times the gradient of this worker's rows.

    All workers compute the same loss L of the same rows, so each can compute dL/d(its rows) without another message.
    DDP divides the sum of the workers' gradients by W. The factor W cancels that.
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
    """Raise ConfigError in all workers of `group` if two of them compute on one GPU, or on MIG instances of one node.

    NCCL refuses two workers on one GPU, and CUDA shows a process only one MIG instance. All workers call this.
    """
    if group.size == 1:
        return
    host = socket.gethostname()
    node = zlib.crc32(host.encode()) if is_mig_instance(device) else 0
    gpu = zlib.crc32(f"{host} {uuid}".encode()) if (uuid := gpu_uuid(device)) else 0
    nodes, gpus = group.gather(torch.tensor([node, gpu])).reshape(-1, 2).T.tolist()
    if _has_repeated(nodes):
        raise ConfigError(
            f"workers.count = {group.size}: several workers of one run cannot train on MIG instances of one node; "
            "set workers.count=1, or request whole GPUs"
        )
    if _has_repeated(gpus):
        raise ConfigError(
            f"workers.count = {group.size}: two workers of one run have the same GPU, and worker {group.rank} has "
            f"{device} of {host}; set workers.count=1, or workers.gpus=1 if it is less"
        )


def _has_repeated(values: list[int]) -> bool:
    """Return whether a value other than 0 occurs twice."""
    present = [value for value in values if value]
    return len(set(present)) < len(present)


def default_group(may_shrink: bool = False) -> Group:
    """Return all processes of torch's default process group; this one alone if there is none."""
    if not dist.is_initialized():
        return Group(may_shrink=may_shrink)
    return Group(dist.get_rank(), dist.get_world_size(), may_shrink)


@cache
def _process_group(size: int) -> Any:
    """Return torch's process group of the first `size` processes. All processes must call this, members or not."""
    return dist.new_group(range(size), timeout=STUCK)


BATCH_NORM = "batch norm statistics"


def per_worker_parts(run: Run, *modules: nn.Module) -> tuple[str, ...]:
    """Describe what each of several workers of `run` computes or draws separately.

    modules: the modules that are trained: the model and the method's adapter, if any.
    """
    layers = [layer for module in modules for layer in module.modules()]
    has_batch_norm = not run.recipe.sync_batch_norm and any(isinstance(layer, _BatchNorm) for layer in layers)
    has_dropout = any(isinstance(layer, _DropoutNd) and layer.p > 0 for layer in layers)
    parts = (BATCH_NORM if has_batch_norm else "", "dropout" if has_dropout else "", run.method.drawn_per_worker)
    return tuple(filter(None, parts))
