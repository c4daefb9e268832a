"""Optimizers and learning rates from their configurations."""

from collections.abc import Callable, Iterable

import torch
from torch import nn

from raykd.spec.optimizers import SGD, AdamW, NamedOptimizer, Optimizer
from raykd.spec.recipe import Recipe

_TOKENS = ("pos_embed", "cls_token", "dist_token", "reg_token")


def make_optimizer(module: nn.Module, config: Optimizer, fused: bool = False) -> torch.optim.Optimizer:
    """Return the optimizer. SGD and torch's other classes apply weight decay to every parameter.

    AdamW and timm's exempt vectors (norms, biases), tokens, position embeddings and the parameters that the network's
    no_weight_decay() returns. fused: use kernels on a GPU that a CUDA graph can capture, where the optimizer has them.
    """
    parameters = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    if isinstance(config, SGD):
        return torch.optim.SGD(
            [p for _, p in parameters],
            lr=config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            nesterov=config.nesterov,
            fused=fused or None,  # None leaves the choice to torch; False would also disable foreach
        )
    if isinstance(config, NamedOptimizer) and not config.exempts_vectors:
        return config.make([{"params": [p for _, p in parameters]}], on_gpu=fused)
    exempt = _exempt_from_decay(module)
    decay = getattr(config, "weight_decay", 0.0)
    groups = [
        {"params": [p for name, p in parameters if name not in exempt], "weight_decay": decay},
        {"params": [p for name, p in parameters if name in exempt], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if isinstance(config, NamedOptimizer):
        return config.make(groups, on_gpu=fused)
    assert isinstance(config, AdamW)
    return torch.optim.AdamW(
        groups, lr=config.lr, betas=(config.beta1, config.beta2), fused=fused or None, capturable=fused
    )


def _exempt_from_decay(module: nn.Module) -> set[str]:
    names = {name for name, p in module.named_parameters() if p.ndim <= 1 or name.endswith(_TOKENS)}
    for prefix, child in module.named_modules():
        no_weight_decay: Callable[[], Iterable[str]] | None = getattr(child, "no_weight_decay", None)  # as in timm
        if no_weight_decay is not None:
            names |= {f"{prefix}.{name}".removeprefix(".") for name in no_weight_decay()}
    return names


def learning_rate(recipe: Recipe, epoch: int, step: int, steps_per_epoch: int) -> float:
    """Return the learning rate of a step; `step` counts from 0 within `epoch`."""
    progress = epoch + step / steps_per_epoch
    return recipe.optimizer.lr * recipe.schedule.factor(progress, epoch, recipe.epochs)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
