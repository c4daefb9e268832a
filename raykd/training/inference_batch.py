"""Find the largest inference batch that fits in the device's memory, by halving.

    for part, logits in batches_that_fit(network, num_images, 2048, lambda part: network(images[part]).logits):
        ...

A ViT-B requires 19 GiB for a batch of 2,048 images of 224 pixels, and a GPU may be shared. The size that fits is
remembered for as long as the network exists. Training steps are not split, since their size affects the result.
"""

from collections.abc import Callable, Iterator
from typing import TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import nn

from raykd.errors import OutOfMemory

Value = TypeVar("Value")

_limits: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()  # batch size per network after an out-of-memory error


def with_largest_batch_size(network: nn.Module, max_size: int, attempt: Callable[[int], Value]) -> Value:
    """Return `attempt(size)` for the largest size that fits: `max_size`, a half, a quarter and so on.

    attempt: passes at most `size` images through `network`; it is called again after an out-of-memory error.

    Raises OutOfMemory if not even one image fits.
    """
    while True:
        size = min(max_size, _limits.get(network, max_size))
        try:
            return attempt(size)
        except torch.OutOfMemoryError as error:
            if size == 1:
                raise OutOfMemory(
                    "out of memory for a single image: use a GPU with more memory, a smaller model or a smaller "
                    "data.image_size"
                ) from error
        # After the handler, because the error's traceback references the tensors of the batch that did not fit.
        torch.cuda.empty_cache()
        _limits[network] = size // 2


def batches_that_fit(
    network: nn.Module, num_images: int, max_size: int, run_part: Callable[[slice], Value]
) -> Iterator[tuple[slice, Value]]:
    """Yield (part, run_part(part)) for consecutive slices of range(num_images) with at most `max_size` images each.

    run_part: passes one part through `network`. After an out-of-memory error it is called again for a smaller part that
    begins at the same image.

    Raises OutOfMemory if not even one image fits.
    """
    start = 0

    def attempt(size: int) -> tuple[slice, Value]:
        part = slice(start, min(start + size, num_images))
        return part, run_part(part)

    while start < num_images:
        part, value = with_largest_batch_size(network, max_size, attempt)
        yield part, value
        start = part.stop
