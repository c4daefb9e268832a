"""Batch norm over the images of all workers, so that several workers take the same steps as one, up to rounding.

    mean = sum over workers and images of x / n        variance = sum of (x - mean)^2 / n

torch's SyncBatchNorm supports GPUs only. This one consists of plain tensor operations and also runs on a CPU, so it can
be tested there. It costs two all-reduces of C numbers per layer in each forward and each backward pass, and is
therefore optional.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from raykd.errors import ConfigError


def require_synchronizable(module: nn.Module, role: str) -> None:
    """Raise ConfigError for a batch norm in `module` that cannot synchronize. role: 'teacher' or 'student'.

    These are batch norms of other classes than BatchNorm2d, such as timm's layers with a fused activation, and those
    without weights, running statistics or momentum.
    """
    for name, layer in module.named_modules():
        if isinstance(layer, _BatchNorm) and not _can_synchronize(layer):
            raise ConfigError(
                f"{role}.sync_batch_norm = true: '{name}' of the model, {layer!r}, cannot synchronize its statistics "
                f"over workers; set {role}.sync_batch_norm=false, or workers.count=1"
            )


def _can_synchronize(layer: _BatchNorm) -> bool:
    is_plain = type(layer) is nn.BatchNorm2d or isinstance(layer, SyncBatchNorm2d)
    return is_plain and layer.affine and layer.track_running_stats and layer.momentum is not None


def synchronize_batch_norm(module: nn.Module, process_group: Any) -> None:
    """Make every batch norm in `module` synchronize over `process_group` (None for all processes).

    module: `require_synchronizable` accepts it.
    """
    for child in module.modules():
        if type(child) is nn.BatchNorm2d:
            child.__class__ = SyncBatchNorm2d
            child.process_group = process_group  # type: ignore[assignment]


class SyncBatchNorm2d(nn.BatchNorm2d):
    """Batch norm of [B, C, H, W], where B is a worker's share. In evaluation mode it is nn.BatchNorm2d."""

    process_group: Any = None

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        x = input.float()
        count = x.numel() // x.shape[1] * dist.get_world_size(self.process_group)
        mean: Tensor = _SumOverWorkers.apply(x.sum((0, 2, 3)), self.process_group) / count
        centered = x - mean[:, None, None]
        variance: Tensor = _SumOverWorkers.apply(centered.square().sum((0, 2, 3)), self.process_group) / count
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean.detach(), self.momentum)
        self.running_var.lerp_(variance.detach() * count / (count - 1), self.momentum)
        scale = self.weight / (variance + self.eps).sqrt()
        return (centered * scale[:, None, None] + self.bias[:, None, None]).to(input.dtype)


class _SumOverWorkers(torch.autograd.Function):
    """A sum over workers, whose gradient is the sum of all workers' gradients."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, process_group: Any) -> Tensor:
        ctx.process_group = process_group
        total = tensor.clone()
        dist.all_reduce(total, group=process_group)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        total = gradients[0].clone()
        dist.all_reduce(total, group=ctx.process_group)
        return total, None
