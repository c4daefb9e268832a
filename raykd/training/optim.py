"""Optimizers and learning rates from their configurations."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf
from typing import Any

import torch
from torch import nn

from raykd.errors import ConfigError, shown
from raykd.methods import Method, ParameterGroup
from raykd.spec.optimizers import SGD, AdamW, NamedOptimizer, Optimizer
from raykd.spec.recipe import Recipe

_TOKENS = ("pos_embed", "cls_token", "dist_token", "reg_token")


def make_optimizer(
    module: nn.Module, config: Optimizer, fused: bool = False, groups: Sequence[ParameterGroup] = ()
) -> torch.optim.Optimizer:
    """Return the optimizer. SGD and torch's other classes apply weight decay to every parameter.

    AdamW and timm's exempt vectors (norms, biases), tokens, position embeddings and the parameters that the network's
    no_weight_decay() returns. fused: use kernels on a GPU that a CUDA graph can capture, where the optimizer has them.
    groups: see `groups_of_adapter`.
    """
    parameters = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    number_of = {id(p): number for number, group in enumerate(groups) for p in group.parameters}
    param_groups = _param_groups(module, config, [(name, p) for name, p in parameters if id(p) not in number_of])
    for number, group in enumerate(groups):
        members = [(name, p) for name, p in parameters if number_of.get(id(p)) == number]
        decay = {} if group.weight_decay is None else {"weight_decay": group.weight_decay}
        param_groups += [part | decay | {"lr_scale": group.lr_scale} for part in _param_groups(module, config, members)]
    if isinstance(config, SGD):
        return torch.optim.SGD(
            param_groups,
            lr=config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            nesterov=config.nesterov,
            fused=fused or None,  # None leaves the choice to torch; False would also disable foreach
        )
    if isinstance(config, NamedOptimizer):
        return config.make(param_groups, on_gpu=fused)
    assert isinstance(config, AdamW)
    return torch.optim.AdamW(
        param_groups, lr=config.lr, betas=(config.beta1, config.beta2), fused=fused or None, capturable=fused
    )


def _param_groups(
    module: nn.Module, config: Optimizer, parameters: Sequence[tuple[str, nn.Parameter]]
) -> list[dict[str, Any]]:
    """Return torch's parameter groups of named `parameters` in `module`, without those that are empty."""
    if isinstance(config, SGD) or (isinstance(config, NamedOptimizer) and not config.exempts_vectors):
        groups: list[dict[str, Any]] = [{"params": [p for _, p in parameters]}]
    else:
        exempt, decay = _exempt_from_decay(module), getattr(config, "weight_decay", 0.0)
        groups = [
            {"params": [p for name, p in parameters if name not in exempt], "weight_decay": decay},
            {"params": [p for name, p in parameters if name in exempt], "weight_decay": 0.0},
        ]
    return [group for group in groups if group["params"]]


def groups_of_adapter(method: Method, adapter: nn.Module | None, config: Optimizer) -> list[ParameterGroup]:
    """Return the method's parameter groups for `make_optimizer`.

    Raises ConfigError for parameters that are not the adapter's, or values that `config` cannot have.
    """
    if adapter is None:
        return []
    subject = f"method = {method.title()}: its parameter_groups()"
    with method.errors_of("its parameter_groups()"):
        groups = list(method.parameter_groups(adapter))
        if others := [group for group in groups if not isinstance(group, ParameterGroup)]:
            raise ConfigError(f"{subject} returns {shown(others[0])}; return a list of raykd.ParameterGroup")
        groups = [group._replace(parameters=tuple(group.parameters)) for group in groups]
    available = {id(parameter) for parameter in adapter.parameters()}
    for group in groups:
        for parameter in group.parameters:
            if id(parameter) not in available:
                raise ConfigError(f"{subject} returns {_kind_of(parameter)}; return each parameter of the adapter once")
            available.remove(id(parameter))
        if not _is_at_least_0(group.lr_scale) or not group.lr_scale:
            raise ConfigError(f"{subject} has lr_scale = {shown(group.lr_scale)}: must be a number greater than 0")
        if group.weight_decay is None:
            continue
        if not _is_at_least_0(group.weight_decay):
            raise ConfigError(f"{subject} has weight_decay = {shown(group.weight_decay)}: must be 0 or more, or None")
        if not hasattr(config, "weight_decay"):
            raise ConfigError(
                f"{subject} has a weight_decay, and the optimizer {config.title()} has none; leave it out"
            )
    return groups


def _is_at_least_0(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < inf


def _kind_of(value: object) -> str:
    return "a parameter twice, or one of another module" if isinstance(value, nn.Parameter) else shown(value)


def require_no_optimizer(method: Method, adapter: nn.Module | None) -> None:
    """Raise ConfigError if a module of the adapter stores an optimizer, whose state no checkpoint would hold."""
    for module in adapter.modules() if adapter is not None else ():
        for name, value in vars(module).items():
            if isinstance(value, torch.optim.Optimizer):
                raise ConfigError(
                    f"method = {method.title()}: its adapter stores an optimizer, '{name}' of {type(module).__name__}, "
                    "and one optimizer trains student and adapter; remove it, and return learning rates from "
                    "parameter_groups()"
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
    """Set the learning rate of a step: `rate` times the lr_scale of the group, if it has one."""
    for group in optimizer.param_groups:
        group["lr"] = rate * lr_scale(group)


def lr_scale(group: Mapping[str, Any]) -> float:
    """Return the factor of the learning rate of one of torch's parameter groups."""
    return group.get("lr_scale", 1.0)
