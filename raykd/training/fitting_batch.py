"""The largest batch of a network's forward passes that the device has memory for: halved until it fits.

    for part, logits in batches_that_fit(network, num_images, most=2048, lambda part: network(images[part]).logits):
        ...

A batch of 2,048 images of 224 pixels takes a ViT-B 19 GiB, and a GPU may be shared. The size that fits is remembered
for each network for the rest of the process. Not for training steps: their batch size decides the result.
"""

from collections.abc import Callable, Iterator
from typing import TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import nn

from raykd.errors import RunFailed

Value = TypeVar("Value")

_limits: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()  # of networks whose larger batches did not fit


def batch_that_fits(network: nn.Module, most: int) -> int:
    """Return the batch size to try for `network`: `most` >= 1, or less where a larger batch did not fit before."""
    return min(most, _limits.get(network, most))


def largest_that_fits(network: nn.Module, most: int, attempt: Callable[[int], Value]) -> Value:
    """Return `attempt(size)` for the largest size that fits: `most`, or half of it, a quarter and so on.

    attempt: computes a batch of at most `size` images by `network`, and may be called again after it failed.

    Raises RunFailed where not even one image fits.
    """
    while True:
        size = batch_that_fits(network, most)
        try:
            return attempt(size)
        except torch.OutOfMemoryError as error:
            if size == 1:
                raise RunFailed(NO_ROOM_FOR_ONE) from error
        # Only here, behind the handler: the error's traceback holds the tensors of the batch that did not fit.
        torch.cuda.empty_cache()
        _limits[network] = size // 2


def batches_that_fit(
    network: nn.Module, num_images: int, most: int, compute: Callable[[slice], Value]
) -> Iterator[tuple[slice, Value]]:
    """Yield (part, compute(part)) for parts of range(num_images) in order, each of at most `most` images.

    compute: passes one part through `network`, and changes nothing that a second call with the same images would
    spoil. Raises RunFailed where not even one image fits.
    """
    start = 0

    def attempt(size: int) -> tuple[slice, Value]:
        part = slice(start, min(start + size, num_images))
        return part, compute(part)

    while start < num_images:
        part, value = largest_that_fits(network, most, attempt)
        yield part, value
        start = part.stop


NO_ROOM_FOR_ONE = (
    "out of memory for a single image: use a GPU with more memory, a smaller model or a smaller data.image_size"
)
