"""Cast all weights of a network to bfloat16 or float16 with one kernel instead of one per weight.

Autocast launches one kernel to cast each convolution's or linear layer's weight and another for its gradient, about a
fifth of all kernels of a ResNet-8, each costing microseconds for its launch alone. Here one call casts all weights and
another all gradients. The results are bit-identical, unless a network also reads a layer's weight outside of the layer:
there autocast leaves it in float32.
"""

from typing import Any

import torch
from torch import Tensor, nn

# Layers that autocast computes in 16 bits. Not their subclasses, whose forward may use the weight in other ways.
_CAST = (nn.Conv2d, nn.Linear)
_PARAMETERS = ("weight", "bias")  # not those from which a hook computes the weight, as weight_norm does


class HalfWeights:
    """The weights of `network` that autocast would cast to `half`, a float type of 16 bits.

    prefix: the name of `network` in the module around it.
    """

    def __init__(self, network: nn.Module, prefix: str, half: torch.dtype) -> None:
        self._half = half
        layers = [(path, layer) for path, layer in network.named_modules(prefix=prefix) if type(layer) in _CAST]
        named = {
            f"{path}.{name}": weight
            for path, layer in layers
            for name, weight in layer.named_parameters(recurse=False)
            if name in _PARAMETERS
        }
        self._weights = list(dict.fromkeys(named.values()))  # layers that share a weight share its cast, as in autocast
        positions = {weight: position for position, weight in enumerate(self._weights)}
        self._positions = {name: positions[weight] for name, weight in named.items()}

    def cast(self) -> dict[str, Tensor]:
        """Return {name: current weight in 16 bits}, for `functional_call` with tie_weights=False.

        Gradients flow back to the weights.
        """
        halves = _CastAll.apply(*self._weights, self._half) if self._weights else ()
        return {name: halves[position] for name, position in self._positions.items()}  # type: ignore[index]


class _CastAll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
        *weights, half = inputs
        halves = [torch.empty_like(weight, dtype=half) for weight in weights]
        torch._foreach_copy_(halves, weights)  # pyright: ignore[reportPrivateImportUsage]
        ctx.mark_non_differentiable(
            *(copy for copy, weight in zip(halves, weights, strict=True) if not weight.requires_grad)
        )
        ctx.set_materialize_grads(False)  # an unused weight has no gradient, and the optimizer does not update it
        return tuple(halves)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        present = [gradient for gradient in gradients if gradient is not None]
        widened = [torch.empty_like(gradient, dtype=torch.float32) for gradient in present]
        torch._foreach_copy_(widened, present)  # pyright: ignore[reportPrivateImportUsage]
        remaining = iter(widened)
        return (*(None if gradient is None else next(remaining) for gradient in gradients), None)
