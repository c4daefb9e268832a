"""Optimizers and learning rates from their configurations."""

from collections.abc import Callable, Iterable

import torch
from torch import nn

from raykd.spec.recipe import SGD, AdamW, Recipe

_TOKENS = ("pos_embed", "cls_token", "dist_token", "reg_token")


def make_optimizer(module: nn.Module, config: SGD | AdamW, fused: bool = False) -> torch.optim.Optimizer:
    """Return the optimizer. SGD applies weight decay to every parameter.

    AdamW exempts vectors (norms, biases), tokens, position embeddings and what the network's no_weight_decay names.
    fused: use one kernel for all parameters on a GPU, which a CUDA graph can capture.
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
    exempt = _exempt_from_decay(module)
    groups = [
        {"params": [p for name, p in parameters if name not in exempt], "weight_decay": config.weight_decay},
        {"params": [p for name, p in parameters if name in exempt], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        fused=fused or None,
        capturable=fused,
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
