"""Optimizers and learning rates from their configurations."""

import torch
from torch import nn

from raykd.recipe import SGD, AdamW, Recipe


def make_optimizer(module: nn.Module, config: SGD | AdamW) -> torch.optim.Optimizer:
    """SGD decays every weight; AdamW leaves vectors alone: norms, biases, and tokens and positions of a ViT."""
    parameters = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    if isinstance(config, SGD):
        return torch.optim.SGD(
            [p for _, p in parameters],
            lr=config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            nesterov=config.nesterov,
        )
    groups = [
        {"params": [p for name, p in parameters if _decays(name, p)], "weight_decay": config.weight_decay},
        {"params": [p for name, p in parameters if not _decays(name, p)], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=config.lr, betas=(config.beta1, config.beta2)
    )


def _decays(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim > 1 and not name.endswith(("pos_embed", "cls_token", "dist_token", "reg_token"))


def learning_rate(recipe: Recipe, epoch: int, step: int, steps_per_epoch: int) -> float:
    """The rate of one step; `step` counts from 0 within `epoch`."""
    progress = epoch + step / steps_per_epoch
    return recipe.optimizer.lr * recipe.schedule.factor(progress, epoch, recipe.epochs)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
