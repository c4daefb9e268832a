"""A dataset in memory: uint8 images and labels of its two parts, and the name of exactly these bytes.

Shapes: N images of a part, H = W = image_size. Images have channels-last strides: they are decoded that
way, a view's row is then one run of bytes, and convolutions in channels-last get them without a copy.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from raykd.errors import DataError

_NUM_SHOWN = 5  # classes named in a description


_MAX_SHOWN = 40  # characters of a class's name there


@dataclass(frozen=True)
class Split:
    """One part of a dataset, on the CPU.

    images: uint8 [N, 3, H, W], channels-last strides. labels: int64 [N], from 0.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.dim() != 4 or self.images.shape[1] != 3:
            shape = list(self.images.shape)
            raise DataError(f"images are {self.images.dtype} {shape}, not torch.uint8 [N, 3, H, W]")
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            shape = list(self.labels.shape)
            raise DataError(f"labels are {self.labels.dtype} {shape}, not torch.int64 [{len(self.images)}]")

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """What a name and a folder stand for.

    mean, std: of the training pixels by channel, as fractions of 255. identity: hex; equal identities mean
    equal pixels and labels, in equal order. notes: what a user must know about how they were read, a sentence each.
    """

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    identity: str
    notes: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def image_size(self) -> int:
        """Pixels on a side."""
        return self.train.images.shape[-1]

    def description(
        self, val_images: int, train_images: int | None = None, student_images: int | None = None
    ) -> list[str]:
        """Return the lines of the plan and the log that describe these data: counts, image size, classes, notes.

        Args: val_images training images are held out for validation. train_images and student_images are how many of
            the others the teacher and the students train on, as in `Data`; None stands for all of them.
        """
        first = [" ".join(name.split())[:_MAX_SHOWN] for name in self.class_names[:_NUM_SHOWN]]
        named = ", ".join([*first, "..."] if self.num_classes > _NUM_SHOWN else first)
        left = len(self.train) - val_images
        train = f"{left:,} train" if train_images is None else f"{train_images:,} of {left:,} train"
        students = "" if student_images is None else f" (students train on {student_images:,})"
        counts = f"{train}{students}, {val_images:,} validation (held out of train)"
        size = f"{self.image_size}x{self.image_size} pixels"
        what = f"{self.name}: {counts}, {len(self.test):,} test images of {size}; {self.num_classes} classes: {named}"
        return [what, *(f"{self.name}: {note}" for note in self.notes)]


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
