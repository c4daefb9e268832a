"""A dataset in memory: uint8 images and labels of its two parts, and the name of exactly these bytes.

Shapes: N images of a part, H = W = image_size. Images have channels-last strides: they are decoded that
way, a view's row is then one run of bytes, and convolutions in channels-last get them without a copy.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from raykd.data import names
from raykd.errors import ConfigError, DataError

if TYPE_CHECKING:
    from raykd.data.stored import Stored

_NUM_SHOWN = 5  # classes named in a description
_MAX_SHOWN = 40  # characters of a class's name there
_AVERAGE_CHUNK = 4096  # images averaged at a time; all at once, 50,000 of them would take 600 MB more


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


def load(name: str, folder: Path | None, image_size: int | None = None, cache: Path | None = None) -> Dataset:
    """The dataset called name, see names.py.

    Args:
        folder: where the data lies, see cifar.find and names.place_of; digits needs none.
        image_size: pixels on a side. What raykd knows is averaged down to it, so it divides the stored size (32 for
            CIFAR, 16 for digits); a person's own pictures are resized. None keeps the stored size.
        cache: folder for the decoded images, so that the next load maps them instead of decoding: 176 MiB
            for CIFAR-10. Made if it is not there.
    Raises: ConfigError for a name or size that does not exist, DataError for files that are missing or wrong, or for
        images that do not fit into memory.
    """
    from raykd.data import memory

    names.require_known(name)
    with memory.shortage_named(name):
        return _load_digits(image_size) if name == "digits" else _load_stored(name, folder, image_size, cache)


def _load_stored(name: str, folder: Path | None, image_size: int | None, cache: Path | None) -> Dataset:
    """As `load`, for images on disk."""
    from raykd.data import decoded_cache
    from raykd.data.stored import constant_channels, measured

    stored = find(name, folder, image_size)
    cached = decoded_cache.path_in(cache, name, stored.image_size, stored.identity) if cache else None
    parts = decoded_cache.read(cached, stored.identity) if cached else None
    decoded = parts or stored.decode()
    mean, std = stored.statistics or measured(name, decoded[0])
    if cached and parts is None:
        decoded_cache.write(cached, stored.identity, decoded)
    notes = (*stored.notes, *constant_channels(mean, std))
    return Dataset(name, decoded[0], decoded[1], stored.class_names, mean, std, stored.identity, notes)


def find(name: str, folder: Path | None, image_size: int | None = None) -> "Stored":
    """The images of name on disk, checked as far as they can be before they are decoded. As `load`, but no digits."""
    place = names.place_of(name, folder)
    if names.kind_of(name) == "folder":
        from raykd.data import image_folder

        return image_folder.find(place, image_size)
    if names.kind_of(name) == "parquet":
        from raykd.data import own_parquet

        return own_parquet.find(place, image_size)
    return _find_cifar(name, place, image_size)


def keep_decoded(dataset: Dataset, cache: Path) -> None:
    """Leave `dataset` in `cache` for later loads, where decoding it takes time."""
    from raykd.data import decoded_cache

    if dataset.name != "digits":
        path = decoded_cache.path_in(cache, dataset.name, dataset.image_size, dataset.identity)
        decoded_cache.write(path, dataset.identity, (dataset.train, dataset.test))


def find_folder(option: str | None, environ: Mapping[str, str]) -> Path:
    """The data folder: --data-dir, else RAYKD_DATA, else ./data. It may not exist: load and download tell."""
    return Path(option or environ.get("RAYKD_DATA") or "data").expanduser()


def _load_digits(image_size: int | None) -> Dataset:
    from raykd.data import digits

    train, test = digits.read()
    size = _checked_size("digits", image_size, digits.IMAGE_SIZE)
    identity = _sized_identity(digits.identity(train, test), size, digits.IMAGE_SIZE)
    train, test = _averaged(train, size), _averaged(test, size)
    return Dataset("digits", train, test, digits.CLASS_NAMES, digits.MEAN, digits.STD, identity)


def _find_cifar(name: str, folder: Path, image_size: int | None) -> "Stored":
    from raykd.data import cifar
    from raykd.data.cifar_classes import IMAGE_SIZE
    from raykd.data.stored import Stored

    size = _checked_size(name, image_size, IMAGE_SIZE)
    source = cifar.find(name, folder)

    def decode() -> tuple[Split, Split]:
        train, test = cifar.decode(source)
        return _averaged(train, size), _averaged(test, size)

    identity = _sized_identity(source.identity, size, IMAGE_SIZE)
    kind = source.cifar
    return Stored(identity, size, kind.class_names, decode, (kind.mean, kind.std))


def _checked_size(name: str, image_size: int | None, stored: int) -> int:
    size = stored if image_size is None else image_size
    if size < 1 or stored % size:
        sizes = ", ".join(str(divisor) for divisor in range(1, stored + 1) if stored % divisor == 0)
        raise ConfigError(f"image_size {size} does not divide the {stored} pixels of {name}; give one of {sizes}")
    return size


def _sized_identity(identity: str, size: int, stored: int) -> str:
    if size == stored:
        return identity
    return hashlib.sha256(f"{identity} averaged to {size}".encode()).hexdigest()


def _averaged(split: Split, size: int) -> Split:
    """Each pixel the mean of the block it stands for, halves rounded up."""
    num_images, _, stored, _ = split.images.shape
    if size == stored:
        return split
    block = stored // size
    pixels = split.images.permute(0, 2, 3, 1)
    small = torch.empty((num_images, size, size, 3), dtype=torch.uint8)
    for start in range(0, num_images, _AVERAGE_CHUNK):
        blocks = pixels[start : start + _AVERAGE_CHUNK].reshape(-1, size, block, size, block, 3)
        total = blocks.sum(dim=(2, 4), dtype=torch.int32)
        small[start : start + _AVERAGE_CHUNK] = (total + block * block // 2) // (block * block)
    return Split(small.permute(0, 3, 1, 2), split.labels)
