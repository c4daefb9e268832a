"""Images on disk that were found and checked, and are not decoded yet."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from raykd.data.dataset import Split
from raykd.errors import DataError

Channels = tuple[float, float, float]
_CHUNK = 1 << 22  # channel values summed at a time: 16 MiB as int32
_COLORS = ("red", "green", "blue")
_NO_SPREAD = 1.0  # instead of a std of 0; no channel has such a std by itself, since values lie in 0 .. 1


@dataclass(frozen=True)
class Stored:
    """What finding gives. identity: hex, of the pixels and labels that `decode` gives, the size included.

    decode: (train, test), uint8 [N, 3, image_size, image_size]; raises DataError for files that are not what they
    should be. statistics: mean and std of the training pixels, where they are known; else they are measured. notes:
    what a user must know about how the files were read, a sentence each.
    """

    identity: str
    image_size: int
    class_names: tuple[str, ...]
    decode: Callable[[], tuple[Split, Split]]
    statistics: tuple[Channels, Channels] | None = None
    notes: tuple[str, ...] = ()


def measured(place: str, train: Split) -> tuple[Channels, Channels]:
    """Mean and std of the training pixels by channel, as fractions of 255: of whole sums, the same on every machine.

    A channel of one value gets a std of 1, so that a model can divide by it; `constant_channels` finds it again.

    Raises: DataError where all pixels have one color.
    """
    total, squares = torch.zeros(3, dtype=torch.int64), torch.zeros(3, dtype=torch.int64)
    at_a_time = max(1, _CHUNK // train.images[0].numel())
    for first in range(0, len(train), at_a_time):
        pixels = train.images[first : first + at_a_time].to(torch.int32)
        total += pixels.sum(dim=(0, 2, 3), dtype=torch.int64)
        squares += (pixels * pixels).sum(dim=(0, 2, 3), dtype=torch.int64)
    count = train.images.numel() // 3
    mean = total.double() / count
    variance = squares.double() / count - mean**2
    pairs = zip(total.tolist(), squares.tolist(), strict=True)
    constant = torch.tensor(
        [count * square == value * value for value, square in pairs]
    )  # exactly: in Python's integers
    if bool(constant.all()):
        raise DataError(f"{place}: every training picture has one and the same colour; there is nothing to learn")
    std = torch.where(constant, 255 * _NO_SPREAD, variance.clamp(min=0).sqrt())
    return _fractions(mean), _fractions(std)


def constant_channels(mean: Channels, std: Channels) -> tuple[str, ...]:
    """Return a sentence for each channel that `measured` found to have one value."""
    return tuple(
        f"the {color} channel is {round(255 * value)} in every pixel of every training image"
        for color, value, spread in zip(_COLORS, mean, std, strict=True)
        if spread == _NO_SPREAD
    )


def _fractions(values: torch.Tensor) -> Channels:
    red, green, blue = (value / 255 for value in values.tolist())
    return red, green, blue
