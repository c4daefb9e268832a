"""Batch norm over the images of all workers of a run: several workers then take one worker's steps, up to rounding.

    mean = sum over workers and images of x / n        variance = sum of (x - mean)^2 / n

torch's own SyncBatchNorm works on GPUs alone; this one is plain tensor operations, the same on a CPU, where tests are.
Two messages of C numbers a layer and direction: an option, not the default.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from raykd.errors import ConfigError


def synchronize_batch_norm(module: nn.Module, processes: Any) -> None:
    """Make every batch norm in `module` one over `processes` (torch's group; None for all); weights stay as they are.

    Raises ConfigError for a model with batch norms of another kind (some of timm's do more in the same layer).
    """
    for child in module.modules():
        if type(child) is nn.BatchNorm2d:
            child.__class__ = SyncBatchNorm2d
            child.processes = processes  # type: ignore[assignment]
        elif isinstance(child, _BatchNorm) and not isinstance(child, SyncBatchNorm2d):
            raise ConfigError(
                f"sync_batch_norm = true: the model's {type(child).__name__} cannot be shared by workers; "
                "leave it out, or take one worker a run"
            )


class SyncBatchNorm2d(nn.BatchNorm2d):
    """[B, C, H, W], B a worker's images. In evaluation the same as any batch norm."""

    processes: Any = None

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        x = input.float()
        count = x.numel() // x.shape[1] * dist.get_world_size(self.processes)
        mean = _sum_over_workers(x.sum((0, 2, 3)), self.processes) / count
        centred = x - mean[:, None, None]
        variance = _sum_over_workers(centred.square().sum((0, 2, 3)), self.processes) / count
        self._follow(mean.detach(), variance.detach() * count / (count - 1))
        scale = self.weight / (variance + self.eps).sqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(input.dtype)

    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Running statistics, as nn.BatchNorm2d keeps them."""
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)


def _sum_over_workers(tensor: Tensor, processes: Any) -> Tensor:
    return _AllReduce.apply(tensor, processes)  # type: ignore[no-any-return]


class _AllReduce(torch.autograd.Function):
    """A sum over workers, whose gradient is the sum of all workers' gradients."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, processes: Any) -> Tensor:
        ctx.processes = processes
        total = tensor.clone()
        dist.all_reduce(total, group=processes)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        total = gradients[0].clone()
        dist.all_reduce(total, group=ctx.processes)
        return total, None
