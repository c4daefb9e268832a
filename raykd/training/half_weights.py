"""Cast all weights of a network to bfloat16 or float16 with one kernel instead of one per weight.

Autocast launches one kernel to cast each convolution's or linear layer's weight and another for its gradient, about a
fifth of all kernels of a ResNet-8, each costing microseconds for its launch alone. Here one call casts all weights and
another all gradients. The results are bit-identical.
"""

from typing import Any

import torch
from torch import Tensor, nn

# Layers that autocast computes in 16 bits. Not their subclasses, whose forward may use the weight in other ways.
_CAST = (nn.Conv2d, nn.Linear)


class HalfWeights:
    """The weights of `network` that autocast would cast to `half`, a float type of 16 bits.

    prefix: the name of `network` in the module around it.
    """

    def __init__(self, network: nn.Module, prefix: str, half: torch.dtype) -> None:
        self._half = half
        layers = [(path, layer) for path, layer in network.named_modules(prefix=prefix) if type(layer) in _CAST]
        self._weights = dict(pair for path, layer in layers for pair in layer.named_parameters(path, recurse=False))

    def cast(self) -> dict[str, Tensor]:
        """Return {name: current weight in 16 bits}. Gradients flow back to the weights."""
        halves = _CastAll.apply(*self._weights.values(), self._half)
        return dict(zip(self._weights, halves, strict=True))  # type: ignore[arg-type]


class _CastAll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
        *weights, half = inputs
        halves = [torch.empty_like(weight, dtype=half) for weight in weights]
        torch._foreach_copy_(halves, weights)  # pyright: ignore[reportPrivateImportUsage]
        return tuple(halves)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        present = [gradient for gradient in gradients if gradient is not None]
        widened = [torch.empty_like(gradient, dtype=torch.float32) for gradient in present]
        torch._foreach_copy_(widened, present)  # pyright: ignore[reportPrivateImportUsage]
        remaining = iter(widened)
        return (*(None if gradient is None else next(remaining) for gradient in gradients), None)
