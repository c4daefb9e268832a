"""An exponential moving average (EMA) of a network's weights, which is evaluated in place of the weights themselves.

    average = decay * average + (1 - decay) * weights      after each update, from the initial weights on

As in timm's ModelEmaV3, floating-point buffers (batch norm's running statistics) are averaged like weights, and
integer buffers (its number of batches) are copied. There is no warm-up: choose the decay for the number of updates,
such as 0.999 for 20,000 of them.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage(nn.Module):
    """The averages are buffers, so they are checkpointed and moved to a device together with the module around them."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        """decay: in [0, 1)."""
        super().__init__()
        self._decay = decay
        for name, tensor in network.state_dict().items():
            self.register_buffer(name.replace(".", "/"), tensor.detach().clone())  # buffers' names have no dots

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Add the network's current weights to the average, in place, so that a CUDA graph can record it."""
        pairs = self._pairs(network)
        averaged, current = zip(*(pair for pair in pairs if pair[0].is_floating_point()), strict=True)
        torch._foreach_lerp_(averaged, current, 1 - self._decay)  # pyright: ignore[reportPrivateImportUsage]
        for average, value in pairs:
            if not average.is_floating_point():
                average.copy_(value)

    @contextmanager
    def applied_to(self, network: nn.Module) -> Iterator[None]:
        """Load the averaged weights into the network inside the context, and restore the current weights afterward."""
        pairs = self._pairs(network)
        with torch.no_grad():
            saved = [current.clone() for _, current in pairs]
            for average, current in pairs:
                current.copy_(average)
        try:
            yield
        finally:
            with torch.no_grad():
                for (_, current), value in zip(pairs, saved, strict=True):
                    current.copy_(value)

    def _pairs(self, network: nn.Module) -> list[tuple[Tensor, Tensor]]:
        """Return (average, current tensor) for each weight and buffer."""
        return [(self.get_buffer(name.replace(".", "/")), tensor) for name, tensor in network.state_dict().items()]
