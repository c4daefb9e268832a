"""Data sets in memory and on disk: Split, Dataset and StoredDataset.

Shapes: N images of a split, H = W = image_size. Images have channels-last strides: they are decoded that way, a row of
a view is then one run of bytes, and channels-last convolutions read them without a copy.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Protocol

import torch
from torch import Tensor

from raykd.errors import DataError

Channels = tuple[float, float, float]  # red, green, blue
_NUM_SHOWN_CLASSES = 5
_MAX_SHOWN_LETTERS = 40  # longest part of a class name in a message
_CHUNK = 1 << 22  # channel values summed at a time: 16 MiB as int32
_COLORS = ("red", "green", "blue")
_NO_SPREAD = 1.0  # instead of a std of 0; no real channel has this std, since values lie in 0 .. 1


class ImagesOnDisk(Protocol):
    """Images that are decoded when they are accessed, such as `PackedImages`. `shape` is (N, 3, H, W)."""

    dtype: torch.dtype

    @property
    def shape(self) -> torch.Size: ...

    def __len__(self) -> int: ...

    def __getitem__(self, indices: slice | Tensor, /) -> Tensor:
        """Return uint8 [B, 3, H, W] with channels-last strides, on the CPU."""
        ...

    def subset(self, indices: Tensor) -> "ImagesOnDisk":
        """Return the images `indices`, int64 [n], without decoding them."""
        ...


@dataclass(frozen=True)
class UndecodedImages:
    """Base of implementations of `ImagesOnDisk` for `count` images of one size."""

    count: int
    size: int
    dtype = torch.uint8

    @property
    def shape(self) -> torch.Size:
        return torch.Size((self.count, 3, self.size, self.size))

    def __len__(self) -> int:
        return self.count


Images = Tensor | ImagesOnDisk


@dataclass(frozen=True)
class Split:
    """Images of a data set and their labels: the training split, the test split, or a part of one.

    images: uint8 [N, 3, H, W], channels-last strides. labels: int64 [N], from 0.
    """

    images: Images
    labels: Tensor

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.dtype != torch.uint8 or len(images.shape) != 4 or images.shape[1] != 3:
            raise DataError(f"images are {images.dtype} {list(images.shape)}, not torch.uint8 [N, 3, H, W]")
        if labels.dtype != torch.int64 or tuple(labels.shape) != (images.shape[0],):
            raise DataError(f"labels are {labels.dtype} {list(labels.shape)}, not torch.int64 [{len(images)}]")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def is_in_memory(self) -> bool:
        """Whether the images are a tensor. Others are decoded when they are accessed."""
        return isinstance(self.images, Tensor)

    @property
    def pixels(self) -> Tensor:
        """The images of a split in memory."""
        assert isinstance(self.images, Tensor), "images on disk are accessed in parts"
        return self.images

    def subset(self, indices: Tensor) -> "Split":
        """Return the images `indices`, int64 [n]. Images on disk are not decoded."""
        if isinstance(self.images, Tensor):
            return Split(self.images[indices], self.labels[indices])
        return Split(self.images.subset(indices), self.labels[indices])

    def to(self, device: torch.device) -> "Split":
        """Return the split with its tensors on `device`. Images on disk stay there."""
        images = self.images.to(device) if isinstance(self.images, Tensor) else self.images
        return Split(images, self.labels.to(device))


@dataclass(frozen=True)
class Resizing:
    """How the images of a pack were reduced before they were stored, see packs/encoding.py.

    shorter_side, quality: of images that were encoded again as JPEG, if their shorter side was longer. square_size:
    pixels per side of raw squares.
    """

    shorter_side: int | None = None
    quality: int | None = None
    square_size: int | None = None


@dataclass(frozen=True)
class Dataset:
    """A data set in memory, or on disk as a pack.

    mean, std: of the training pixels by channel, as fractions of 255. identity: hex; equal identities mean equal
    pixels and labels in equal order. notes: sentences for the user about how the files were read. resizing:
    of a pack; None if it has the original images.
    """

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]
    mean: Channels
    std: Channels
    identity: str
    notes: tuple[str, ...] = ()
    resizing: Resizing | None = None

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def image_size(self) -> int:
        """Pixels per side."""
        return self.train.images.shape[-1]

    def description(
        self, val_images: int, train_images: int | None = None, student_images: int | None = None
    ) -> list[str]:
        """Return the lines that describe the data in the plan and the log: counts, image size, classes, notes.

        Args: val_images training images form the validation split; with 0 there is none. train_images and
            student_images are how many of the others the teacher and the students train on, as in `Data`; None stands
            for all of them.
        """
        first = [" ".join(name.split())[:_MAX_SHOWN_LETTERS] for name in self.class_names[:_NUM_SHOWN_CLASSES]]
        classes = ", ".join([*first, "..."] if self.num_classes > _NUM_SHOWN_CLASSES else first)
        rest = len(self.train) - val_images
        train = f"{rest:,} train" if train_images is None else f"{train_images:,} of {rest:,} train"
        students = "" if student_images is None else f" (students train on {student_images:,})"
        validation = f"{val_images:,} validation (split from train)" if val_images else "no validation"
        counts = f"{train}{students}, {validation}"
        size = f"{self.image_size}x{self.image_size} pixels"
        text = f"{self.name}: {counts}, {len(self.test):,} test images of {size}; {self.num_classes} classes: {classes}"
        return [text, *(f"{self.name}: {note}" for note in self.notes)]


@dataclass(frozen=True)
class UndecodedSplits:
    """The splits of a data set whose images are decoded when they are accessed.

    sample: decoded training images, spread over the split; all of them if it is small. is_unusual: whether all
    images must be decoded to know whether the data set is refused, and its notes.
    """

    train: Split
    test: Split
    sample: Split
    is_unusual: bool = False


@dataclass(frozen=True)
class StoredDataset:
    """A data set on disk that was checked but not decoded.

    identity: hex, of the pixels and labels that `decode` returns, at image_size. decode: returns (train, test), uint8
    [N, 3, image_size, image_size], and raises DataError for damaged or unexpected files. sample: returns the same
    splits after decoding a few images of each, and raises DataError for those. statistics: mean and std of the training
    pixels if they are published; None to compute them. notes, resizing: as in Dataset.
    """

    identity: str
    image_size: int
    class_names: tuple[str, ...]
    decode: Callable[[], tuple[Split, Split]]
    sample: Callable[[], UndecodedSplits]
    statistics: tuple[Channels, Channels] | None = None
    notes: tuple[str, ...] = ()
    resizing: Resizing | None = None


def channel_statistics(name: str, train: Split) -> tuple[Channels, Channels]:
    """Return mean and std of the training pixels by channel, as fractions of 255.

    Sums are integers, so the result is the same on every machine. A constant channel has a std of 1, so that a model
    can divide by it; `constant_channels` recognizes it.

    Raises DataError if all pixels have one color. The message begins with `name`.
    """
    total, squares = torch.zeros(3, dtype=torch.int64), torch.zeros(3, dtype=torch.int64)
    num_pixels = train.images.shape[2] * train.images.shape[3]
    images_per_chunk = max(1, _CHUNK // (3 * num_pixels))
    for first in range(0, len(train), images_per_chunk):
        pixels = train.images[first : first + images_per_chunk].to(torch.int32)
        total += pixels.sum(dim=(0, 2, 3), dtype=torch.int64)
        squares += (pixels * pixels).sum(dim=(0, 2, 3), dtype=torch.int64)
    return statistics_of_sums(name, total.tolist(), squares.tolist(), len(train) * num_pixels)


def statistics_of_sums(
    name: str, total: Sequence[int], squares: Sequence[int], count: int
) -> tuple[Channels, Channels]:
    """Return mean and std by channel, as fractions of 255, from the sums of values and squares of `count` pixels.

    Raises DataError if all pixels have one color. The message begins with `name`.
    """
    # Python's integers do not overflow, so this comparison is exact.
    is_constant = [count * square == value * value for value, square in zip(total, squares, strict=True)]
    if all(is_constant):
        raise DataError(f"{name}: every training image has one and the same color; there is nothing to learn")
    means = [value / count for value in total]
    variances = [square / count - mean * mean for square, mean in zip(squares, means, strict=True)]
    stds = [
        255 * _NO_SPREAD if constant else sqrt(max(0.0, variance))
        for constant, variance in zip(is_constant, variances, strict=True)
    ]
    return _as_fractions(means), _as_fractions(stds)


def constant_channels(mean: Channels, std: Channels) -> tuple[str, ...]:
    """Return a note for each channel that `channel_statistics` found to be constant."""
    return tuple(
        f"the {color} channel is {round(255 * value)} in every pixel of every training image"
        for color, value, spread in zip(_COLORS, mean, std, strict=True)
        if spread == _NO_SPREAD
    )


def _as_fractions(values: Sequence[float]) -> Channels:
    red, green, blue = (value / 255 for value in values)
    return red, green, blue
