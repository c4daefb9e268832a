"""A network's weights in bfloat16, cast by one kernel instead of one for each weight.

Autocast casts the weight of every convolution and linear layer by a kernel of its own, and its gradient back by
another, each some microseconds for nothing but its launch: about a fifth of a ResNet-8's kernels. Here all weights are
cast by one call, and all gradients by another. Roundings are the same, so results are the same to the bit.
"""

from typing import Any

import torch
from torch import Tensor, nn

# Layers that autocast computes in bfloat16. Not their subclasses, whose forward may do anything with a weight.
_CAST = (nn.Conv2d, nn.Linear)


class HalfWeights:
    """The weights of `network`, a part of another module by the name `prefix`, that autocast would cast."""

    def __init__(self, network: nn.Module, prefix: str) -> None:
        self._names: list[str] = []
        self._weights: list[Tensor] = []
        for path, layer in network.named_modules(prefix=prefix):
            if type(layer) in _CAST:
                for name, weight in layer.named_parameters(recurse=False):
                    self._names.append(f"{path}.{name}")
                    self._weights.append(weight)

    def cast(self) -> dict[str, Tensor]:
        """Return {name: the weight as it is now, in bfloat16}; gradients flow back to the weights."""
        halves = _CastAll.apply(*self._weights)
        return dict(zip(self._names, halves, strict=True))  # type: ignore[arg-type]


class _CastAll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *weights: Tensor) -> tuple[Tensor, ...]:
        halves = [torch.empty_like(weight, dtype=torch.bfloat16) for weight in weights]
        torch._foreach_copy_(halves, weights)  # pyright: ignore[reportPrivateImportUsage]
        return tuple(halves)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        found = [gradient for gradient in gradients if gradient is not None]
        whole = [torch.empty_like(gradient, dtype=torch.float32) for gradient in found]
        torch._foreach_copy_(whole, found)  # pyright: ignore[reportPrivateImportUsage]
        left = iter(whole)
        return tuple(None if gradient is None else next(left) for gradient in gradients)
