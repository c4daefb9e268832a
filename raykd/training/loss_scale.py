"""Loss scaling for runs in fp16, so that small gradients do not become 0 in float16 (arXiv:1710.03740).

    scaler.scale(loss).backward()     gradients times the scale, 2^16 at first
    scaler.step(optimizer)            divides them by it; skips the update if a gradient is infinite or NaN
    scaler.update()                   halves the scale after a skipped update, doubles it after 2,000 others in a row

In any other precision the scaler only calls the optimizer. A skipped update still counts as a step: the learning rate
and the moving average of the weights advance. With a fused optimizer, scale and decision remain on the GPU, so that no
step waits for it and a CUDA graph can capture the step. The scale and the number of updates since its last change are
part of the checkpoint (`Progress.loss_scale`). Workers have equal gradients, hence equal scales.
"""

import torch
from torch.amp.grad_scaler import GradScaler

from raykd.errors import RunDiverged
from raykd.training.compute import Compute

MIN_SCALE = 1e-4  # reached after 30 skipped updates from 2^16: no smaller scale makes these gradients finite


def make_scaler(compute: Compute) -> GradScaler:
    """Return the scaler of a run, which does nothing unless its precision is fp16."""
    return GradScaler(compute.device.type, enabled=compute.precision == "fp16")


def zero_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Set the momentum of SGD to 0 before its first update, which changes no update.

    torch's fused SGD allocates momentum in its first update. If that is skipped, its values remain undefined.
    """
    for group in optimizer.param_groups if isinstance(optimizer, torch.optim.SGD) else []:
        for parameter in group["params"] if group["momentum"] else []:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def require_scale(scaler: GradScaler, epoch: int) -> None:
    """Raise RunDiverged if the updates of `epoch` are skipped at every scale. Waits for the device."""
    if scaler.get_scale() < MIN_SCALE:
        raise RunDiverged(
            f"gradients were NaN or infinite at every loss scale in epoch {epoch}, so fp16 skips every update; "
            "lower the learning rate, or use precision = fp32"
        )
