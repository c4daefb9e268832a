"""The float type in which losses are computed."""

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec

import torch
from torch import Tensor

Arguments = ParamSpec("Arguments")
ROUNDING = 16  # number of epsilons of the float type; smaller differences from a mean are rounding noise


def at_least_float32(tensor: Tensor) -> Tensor:
    """Return float16 and bfloat16 as float32; float32 and float64 unchanged."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def in_float32(loss: Callable[Arguments, Tensor]) -> Callable[Arguments, Tensor]:
    """Decorate a loss to compute half precision in float32, without autocast, which would use half precision again."""

    @wraps(loss)
    def computed(*values: Arguments.args, **named: Arguments.kwargs) -> Tensor:
        tensors: list[Tensor] = [value for value in (*values, *named.values()) if isinstance(value, Tensor)]
        with torch.autocast(tensors[0].device.type, enabled=False):
            return loss(*map(_widened, values), **{name: _widened(value) for name, value in named.items()})  # type: ignore[arg-type]

    return computed


def _widened(value: Any) -> Any:
    return at_least_float32(value) if isinstance(value, Tensor) else value
