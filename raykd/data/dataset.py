"""A dataset in memory: uint8 images and labels of its two parts, and the name of exactly these bytes.

Shapes: N images of a part, H = W = image_size. Images have channels-last strides: they are decoded that
way, a view's row is then one run of bytes, and convolutions in channels-last get them without a copy.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from raykd.errors import ConfigError, DataError, did_you_mean

NAMES = ("cifar10", "digits")
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
    equal pixels and labels, in equal order.
    """

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    identity: str

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def image_size(self) -> int:
        """Pixels on a side."""
        return self.train.images.shape[-1]


def load(name: str, folder: Path | None, image_size: int | None = None, cache: Path | None = None) -> Dataset:
    """The dataset called name, one of NAMES.

    Args:
        folder: where the data lies, see cifar10.find; digits needs none.
        image_size: pixels on a side that the images are averaged down to; divides the stored size (32 for
            cifar10, 16 for digits). None keeps that.
        cache: folder for the decoded images, so that the next load maps them instead of decoding: 176 MiB
            for CIFAR-10. Made if it is not there.
    Raises: ConfigError for a name or size that does not exist, DataError for files that are missing or wrong.
    """
    if name not in NAMES:
        known = ", ".join(NAMES)
        raise ConfigError(f"unknown dataset '{name}': raykd has {known}{did_you_mean(name, NAMES)}")
    if name == "digits":
        return _load_digits(image_size)
    if folder is None:
        raise DataError(f"{name} is read from a folder: give --data-dir, or set RAYKD_DATA")
    return _load_cifar10(folder, image_size, cache)


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


def _load_cifar10(folder: Path, image_size: int | None, cache: Path | None) -> Dataset:
    from raykd.data import cifar10, decoded_cache

    size = _checked_size("cifar10", image_size, cifar10.IMAGE_SIZE)
    source = cifar10.find(folder)
    identity = _sized_identity(source.identity, size, cifar10.IMAGE_SIZE)
    cached = decoded_cache.path_in(cache, "cifar10", size, identity) if cache else None
    parts = decoded_cache.read(cached, identity) if cached else None
    if parts is None:
        parts = tuple(_averaged(split, size) for split in cifar10.decode(source))
        if cached:
            decoded_cache.write(cached, identity, parts)
    train, test = parts
    return Dataset("cifar10", train, test, cifar10.CLASS_NAMES, cifar10.MEAN, cifar10.STD, identity)


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
