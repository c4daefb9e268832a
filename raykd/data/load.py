"""Loads the data set that a name and a folder stand for."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch

from raykd.data import names
from raykd.data.types import Dataset, Split, Stored
from raykd.errors import ConfigError

_AVERAGE_CHUNK = 4096  # images averaged at a time; all at once, 50,000 of them would take 600 MB more


def load_dataset(name: str, folder: Path | None, image_size: int | None = None, cache: Path | None = None) -> Dataset:
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
    """As `load_dataset`, for images on disk."""
    from raykd.data import decoded_cache
    from raykd.data.types import constant_channels, measured

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
    """Find the images of `name` on disk and check what can be checked before they are decoded.

    Raises what `load_dataset` raises. Digits have no files.
    """
    place = names.place_of(name, folder)
    if names.kind_of(name) == "folder":
        from raykd.data import image_folder

        return image_folder.find(place, image_size)
    if names.kind_of(name) == "parquet":
        from raykd.data import parquet_folder

        return parquet_folder.find(place, image_size)
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
    from raykd.data.types import Stored

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
