"""Find and load the data set that a name and a folder stand for."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from raykd.data import (
    cifar,
    dataset_names,
    decoded_cache,
    digits,
    image_folder,
    imagenet,
    memory,
    parquet_folder,
    tiny_imagenet,
    webdataset,
)
from raykd.data.file_hashes import read_hashes, write_hashes
from raykd.data.image_decoding import UndecodableImage
from raykd.data.packs.dataset import find_packed
from raykd.data.packs.errors import SKIP_DAMAGED, PackError
from raykd.data.packs.record import RECORD
from raykd.data.sources import ImageSource
from raykd.data.splits import has_train_and_test
from raykd.data.types import Dataset, Split, StoredDataset, UndecodedSplits, channel_statistics, constant_channels
from raykd.data.undecoded import FirstImages
from raykd.disk.lookup import is_file, is_folder
from raykd.errors import ConfigError

_SOURCES: dict[str, Callable[[Path], ImageSource]] = {
    "folder": image_folder.find,
    "parquet": parquet_folder.find,
    "webdataset": webdataset.find,
    "imagenet": imagenet.find,
    "tiny_imagenet": tiny_imagenet.find,
}
_AVERAGE_CHUNK = 4096  # images averaged at a time; all 50,000 of them would take 600 MB more


def load_dataset(
    name: str,
    folder: Path | None,
    image_size: int | None = None,
    cache: Path | None = None,
    source: ImageSource | None = None,
) -> Dataset:
    """Load a data set into memory.

    Args:
        name: see dataset_names.py.
        folder: the data folder; digits needs none.
        image_size: pixels per side. CIFAR and digits are averaged down to it, so it must divide the stored size (32 for
            CIFAR, 16 for digits). The images of all other data sets are resized. None keeps the stored size.
        cache: folder for the decoded images, which the next load maps into memory instead of decoding: 176 MiB
            for CIFAR-10. It is created if missing.
        source: the images, if they were listed already by `find_source(name, folder)`.
    Raises ConfigError for an unknown name or an impossible size. DataError for files that are missing or damaged, or
        for images that do not fit into memory.
    """
    dataset_names.require_known(name)
    with _errors_of(name, folder):
        return _load_digits(image_size) if name == "digits" else _load_stored(name, folder, image_size, cache, source)


def load_sample(
    name: str,
    folder: Path | None,
    image_size: int | None = None,
    cache: Path | None = None,
    source: ImageSource | None = None,
) -> Dataset:
    """Return the data set that `load_dataset` would load, for a plan: its images are decoded when they are accessed.

    Files are hashed, unless their hashes are in `cache`. If a hashed file is an image, its header and end are
    checked. A sample of the images is decoded; of a small data set, all of them. Mean and std are those of the sample,
    unless they are published.

    Raises what `load_dataset` raises for what is read.
    """
    dataset_names.require_known(name)
    with _errors_of(name, folder):
        if name == "digits":
            return _load_digits(image_size)
        stored = find_dataset(name, folder, image_size, cache, source, checks_images=True)
        splits = stored.sample()
        if splits.is_unusual:
            return _load_stored(name, folder, image_size, cache, source)
        if cache:
            write_hashes(cache)
        mean, std = stored.statistics or channel_statistics(name, splits.sample)
        images = (splits.train, splits.test)
        return Dataset(name, *images, stored.class_names, mean, std, stored.identity, stored.notes, stored.resizing)


@contextmanager
def _errors_of(name: str, folder: Path | None) -> Iterator[None]:
    """Add the remedies of a data set to the errors of reading it."""
    with memory.report_shortage(name):
        try:
            yield
        except UndecodableImage as error:
            if folder is None or dataset_names.kind_of(name) not in _SOURCES:
                raise
            raise PackError(str(error), "", SKIP_DAMAGED).with_commands(name, folder) from error


def find_dataset(
    name: str,
    folder: Path | None,
    image_size: int | None = None,
    cache: Path | None = None,
    source: ImageSource | None = None,
    checks_images: bool = False,
) -> StoredDataset:
    """Find the images of `name` on disk and check what can be checked without decoding them. The files are hashed.

    checks_images: see `ImageSource.stored_dataset`.

    Raises what `load_dataset` raises. Raises ConfigError for digits, which have no files.
    """
    place = dataset_names.folder_of(name, folder)
    if dataset_names.is_cifar(name):
        return _find_cifar(name, place, image_size, cache)
    if dataset_names.kind_of(name) == "packed":
        return find_packed(place, image_size)
    read_hashes(place, cache)
    return (source or find_source(name, folder)).stored_dataset(image_size, checks_images)


def find_source(name: str, folder: Path | None) -> ImageSource:
    """List the encoded images of `name` on disk. None is read, decoded or hashed.

    Raises DataError for anything that differs from the layout, ConfigError for data that is not stored that way.
    """
    dataset_names.require_known(name)
    find = _SOURCES.get(dataset_names.kind_of(name))
    if find is None:
        kinds = ", ".join(kind if kind in dataset_names.BUILT_IN else f"{kind}:PLACE" for kind in _SOURCES)
        raise ConfigError(f"{name}: has no image files that can be packed; name one of {kinds}")
    return find(dataset_names.folder_of(name, folder))


def list_datasets(folder: Path) -> tuple[str, ...]:
    """Return the names of the data sets in a data folder, as values of `data.name`.

    CIFAR is checked by its checksums. For other folders only the layout is looked at.

    Raises DataError if there is no data set, or if CIFAR is damaged.
    """
    custom = _list_custom_datasets(folder)
    built_in = tuple(name for name in ("cifar10", "cifar100") if cifar.exists(name, folder))
    # Without any data set, look for CIFAR-10 all the same: its error lists the places that were searched.
    for name in built_in if built_in or custom else ("cifar10",):
        cifar.find(name, folder)
    return built_in + custom


def keep_decoded(dataset: Dataset, cache: Path) -> None:
    """Write the decoded images of `dataset`, and the hashes of its files, to `cache` for later loads.

    Digits are not written, because they load fast, and neither are images on disk.
    """
    write_hashes(cache)
    if dataset.name != "digits" and dataset.train.is_in_memory:
        path = decoded_cache.cache_path(cache, dataset.name, dataset.image_size, dataset.identity)
        decoded_cache.write(path, dataset.identity, (dataset.train, dataset.test))


def stored_size(name: str) -> int | None:
    """Return the pixels per side of the stored images of `name`; None for data sets whose images are resized."""
    return digits.IMAGE_SIZE if name == "digits" else cifar.IMAGE_SIZE if dataset_names.is_cifar(name) else None


def _load_stored(
    name: str, folder: Path | None, image_size: int | None, cache: Path | None, source: ImageSource | None
) -> Dataset:
    stored = find_dataset(name, folder, image_size, cache, source)
    path = decoded_cache.cache_path(cache, name, stored.image_size, stored.identity) if cache else None
    cached = decoded_cache.read(path, stored.identity) if path else None
    train, test = cached or stored.decode()
    mean, std = stored.statistics or channel_statistics(name, train)
    if path and cached is None:
        decoded_cache.write(path, stored.identity, (train, test))
    if cache:
        write_hashes(cache)
    notes = (*stored.notes, *constant_channels(mean, std))
    return Dataset(name, train, test, stored.class_names, mean, std, stored.identity, notes, stored.resizing)


def _load_digits(image_size: int | None) -> Dataset:
    train, test = digits.read()
    size = _checked_size("digits", image_size, digits.IMAGE_SIZE)
    identity = _identity_at_size(digits.identity(train, test), size, digits.IMAGE_SIZE)
    train, test = _averaged(train, size), _averaged(test, size)
    return Dataset("digits", train, test, digits.CLASS_NAMES, digits.MEAN, digits.STD, identity)


def _find_cifar(name: str, folder: Path, image_size: int | None, cache: Path | None) -> StoredDataset:
    size = _checked_size(name, image_size, cifar.IMAGE_SIZE)
    stored = cifar.find(name, folder, cache)

    def decode() -> tuple[Split, Split]:
        train, test = stored.decode()
        return _averaged(train, size), _averaged(test, size)

    def sample() -> UndecodedSplits:
        splits = stored.sample()
        train, test = (_averaged_first(split, size) for split in (splits.train, splits.test))
        return replace(splits, train=train, test=test)

    identity = _identity_at_size(stored.identity, size, cifar.IMAGE_SIZE)
    return replace(stored, identity=identity, image_size=size, decode=decode, sample=sample)


def _list_custom_datasets(folder: Path) -> tuple[str, ...]:
    places = [place for place in sorted(folder.iterdir()) if is_folder(place)] if is_folder(folder) else []
    names = [name for place in places if (name := _name_of(place))]
    packs = folder / dataset_names.PACKED_FOLDER
    packed = sorted(place.name for place in packs.iterdir() if is_file(place / RECORD)) if is_folder(packs) else ()
    return (*names, *(f"packed:{name}" for name in packed))


def _name_of(place: Path) -> str:
    """Return the name of the data set in the folder `place` of the data folder, '' if there is none."""
    for name, layout in (("imagenet", imagenet), ("tiny_imagenet", tiny_imagenet)):
        if place.name in dataset_names.FOLDERS[name]:
            return name if layout.exists(place) else ""
    if place.name in {variant.folder for variant in cifar.VARIANTS.values()}:
        return ""
    if has_train_and_test(list(parquet_folder.find_files(place))):
        return f"parquet:{place.name}"
    if has_train_and_test(list(webdataset.find_files(place))):
        return f"webdataset:{place.name}"
    return f"folder:{place.name}" if image_folder.exists(place) else ""


def _checked_size(name: str, image_size: int | None, stored_size: int) -> int:
    size = stored_size if image_size is None else image_size
    if size < 1 or stored_size % size:
        sizes = ", ".join(str(divisor) for divisor in range(1, stored_size + 1) if stored_size % divisor == 0)
        raise ConfigError(
            f"data.image_size = {size}: must divide {stored_size}, the pixels per side of the images of {name}; "
            f"set it to one of {sizes}"
        )
    return size


def _identity_at_size(identity: str, size: int, stored_size: int) -> str:
    if size == stored_size:
        return identity
    return hashlib.sha256(f"{identity} averaged to {size}".encode()).hexdigest()


def _averaged_first(split: Split, size: int) -> Split:
    """Return the split with images that are averaged when they are accessed."""

    def read(count: int) -> Tensor:
        return _averaged(Split(split.images[:count], split.labels[:count]), size).pixels

    return Split(FirstImages(len(split), size, read), split.labels)


def _averaged(split: Split, size: int) -> Split:
    """Replace each block of pixels by its mean, halves rounded up, so that images are size x size."""
    num_images, _, stored_size, _ = split.pixels.shape
    if size == stored_size:
        return split
    block = stored_size // size
    pixels = split.pixels.permute(0, 2, 3, 1)
    small = torch.empty((num_images, size, size, 3), dtype=torch.uint8)
    for start in range(0, num_images, _AVERAGE_CHUNK):
        blocks = pixels[start : start + _AVERAGE_CHUNK].reshape(-1, size, block, size, block, 3)
        total = blocks.sum(dim=(2, 4), dtype=torch.int32)
        small[start : start + _AVERAGE_CHUNK] = (total + block * block // 2) // (block * block)
    return Split(small.permute(0, 3, 1, 2), split.labels)
