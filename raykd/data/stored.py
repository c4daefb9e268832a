"""Images on disk that were found and checked, and are not decoded yet."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from raykd.data.dataset import Split
from raykd.errors import DataError

Channels = tuple[float, float, float]
_CHUNK = 1024  # images summed at a time


@dataclass(frozen=True)
class Stored:
    """What finding gives. identity: hex, of the pixels and labels that `decode` gives, the size included.

    decode: (train, test), uint8 [N, 3, image_size, image_size]; raises DataError for files that are not what they
    should be. statistics: mean and std of the training pixels, where they are known; else they are measured.
    """

    identity: str
    image_size: int
    class_names: tuple[str, ...]
    decode: Callable[[], tuple[Split, Split]]
    statistics: tuple[Channels, Channels] | None = None


def measured(place: str, train: Split) -> tuple[Channels, Channels]:
    """Mean and std of the training pixels by channel, as fractions of 255: of whole sums, the same on every machine.

    Raises: DataError where all pixels of a channel are equal, by whose std of 0 a model would divide.
    """
    total, squares = torch.zeros(3, dtype=torch.int64), torch.zeros(3, dtype=torch.int64)
    for first in range(0, len(train), _CHUNK):
        pixels = train.images[first : first + _CHUNK].to(torch.int32)
        total += pixels.sum(dim=(0, 2, 3), dtype=torch.int64)
        squares += (pixels * pixels).sum(dim=(0, 2, 3), dtype=torch.int64)
    count = train.images.numel() // 3
    mean = total.double() / count
    variance = squares.double() / count - mean**2
    if bool((variance <= 0).any()):
        raise DataError(f"{place}: every training picture has one and the same colour; there is nothing to learn")
    return _fractions(mean), _fractions(variance.sqrt())


def _fractions(values: torch.Tensor) -> Channels:
    red, green, blue = (value / 255 for value in values.tolist())
    return red, green, blue
