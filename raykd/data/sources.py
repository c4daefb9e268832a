"""A data set on disk as encoded images, in the order of its indices, to be decoded or packed.

A source lists its images and their labels without decoding any. Its units of work are consecutive images that become
one shard of a pack. A unit can be pickled, so that any process of any node can read it.
"""

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import NamedTuple, Protocol

from torch import Tensor

from raykd.data.file_hashes import sha256_of
from raykd.data.regular_files import FileVersion
from raykd.data.types import Channels, StoredDataset
from raykd.errors import DataError

MAX_UNIT_BYTES = 256_000_000  # of encoded images; one larger row group of Parquet is a unit too
MAX_UNIT_IMAGES = 4096


class EncodedImage(NamedTuple):
    """An image and its label. where: its source, for messages. encoded: a PNG or JPEG, not checked. label: from 0."""

    where: str
    encoded: bytes
    label: int


class Unit(Protocol):
    """Consecutive images of one split.

    num_bytes: of the encoded images; an estimate for Parquet. file: the file whose first images these are, if the
    identity of the data set is a hash of files and not of images; else None.
    """

    @property
    def num_images(self) -> int: ...

    @property
    def num_bytes(self) -> int: ...

    @property
    def file(self) -> Path | None: ...

    @property
    def key(self) -> str:
        """A hash, hex, which differs for other images, labels or versions of files, but not for another place."""
        ...

    def images(self) -> Iterator[EncodedImage]:
        """Yield the images in order. Raises DataError if a file cannot be read or has changed since it was listed."""
        ...


@dataclass(frozen=True)
class ImageSource(ABC):
    """A data set on disk in one of the layouts.

    kind: the layout, 'folder', 'parquet' or 'webdataset', which decides how the identity is computed.
    place: the folder. statistics: published mean and std, None to compute them. notes: as in Dataset.
    """

    kind: str
    place: Path
    class_names: tuple[str, ...]
    notes: tuple[str, ...]
    statistics: tuple[Channels, Channels] | None

    @property
    @abstractmethod
    def num_images(self) -> tuple[int, int]:
        """The number of training and test images."""

    @abstractmethod
    def first_image(self) -> tuple[str, bytes]:
        """Return the source of the first training image, for messages, and its bytes."""

    @abstractmethod
    def labels(self) -> tuple[Tensor, Tensor]:
        """Return the labels of the training and of the test split, int64 [N]. No image is read."""

    @abstractmethod
    def every_nth(self, n: int) -> tuple[Iterator[EncodedImage], Iterator[EncodedImage]]:
        """Return iterators over about one of `n` training and test images, in order. With n = 1 they have all."""

    @abstractmethod
    def units(self) -> tuple[Sequence[Unit], Sequence[Unit]]:
        """Return the units of the training and the test split, in order."""

    @abstractmethod
    def stored_dataset(self, image_size: int | None, checks_images: bool = False) -> StoredDataset:
        """Return the data set that can be decoded into memory. The files are hashed.

        image_size: pixels per side of all images; None if they already are squares of one size. checks_images: whether
        to check the header and the end of each image file whose hash is not known from an earlier command.
        """


def split_by_size(num_bytes: Iterable[int], num_images: Iterable[int] | None = None) -> list[slice]:
    """Return consecutive slices of items, each within the limits of a unit. A larger item has a slice for itself.

    num_bytes, num_images: of each item; the items are single images if num_images is None.
    """
    slices: list[slice] = []
    start, stop, bytes_before, images_before = 0, 0, 0, 0
    for size, count in zip(num_bytes, num_images or repeat(1), strict=False):
        is_full = bytes_before + size > MAX_UNIT_BYTES or images_before + count > MAX_UNIT_IMAGES
        if is_full and stop > start:
            slices.append(slice(start, stop))
            start, bytes_before, images_before = stop, 0, 0
        stop, bytes_before, images_before = stop + 1, bytes_before + size, images_before + count
    return [*slices, slice(start, stop)]


def hash_files(files: Sequence[FileVersion]) -> list[bytes]:
    """Return the SHA-256 of each file of one split. Raises DataError if two are equal, or one cannot be read."""
    paths = [file.path for file in files]
    digests = [sha256_of(path) for path in paths]
    require_different(paths, digests)
    return digests


def require_different(paths: Sequence[Path], digests: Sequence[bytes]) -> None:
    """Raise DataError if two files of one split have the same SHA-256."""
    first_with: dict[bytes, Path] = {}
    for path, digest in zip(paths, digests, strict=True):
        if digest in first_with:
            raise DataError(
                f"{path}: has the same content as {first_with[digest].name}; its images would count twice: remove one"
            )
        first_with[digest] = path


def notes_on_shared_files(
    test: Sequence[Path], train_hashes: Sequence[bytes], test_hashes: Sequence[bytes]
) -> tuple[str, ...]:
    """Return a note for each test file that is also a training file."""
    shared = [path for path, digest in zip(test, test_hashes, strict=True) if digest in train_hashes]
    content = "is also trained on: a train file has the same content"
    return tuple(f"{path.name} of the test split {content}" for path in shared)


def content_identity(kind: str, train_hashes: Sequence[bytes], test_hashes: Sequence[bytes]) -> str:
    """Return the SHA-256, hex, of the files' hashes and the split of each; names and folders do not count."""
    digest = hashlib.sha256(kind.encode())
    for split, hashes in ((b"train", train_hashes), (b"test", test_hashes)):
        for file_hash in hashes:
            digest.update(split + file_hash)
    return digest.hexdigest()


def identity_at_size(content: str, image_size: int) -> str:
    """Return the identity of a data set whose files have the identity `content`."""
    return hashlib.sha256(f"{content} at {image_size}".encode()).hexdigest()


def name_with_index(match: re.Match[str], index: int) -> str:
    """Return a file name with another number; the group 'index' of `match` is the one that it has."""
    return f"{match.string[: match.start('index')]}{index:0{len(match['index'])}}{match.string[match.end('index') :]}"


def key_of(versions: Iterable[FileVersion], place: Path, *more: object) -> str:
    """Return a hex digest of the names, sizes and times of change of files, and of the texts of `more`."""
    digest = hashlib.sha256(repr(more).encode())
    for version in versions:
        name = version.path.relative_to(place).as_posix()
        digest.update(f"{name}\0{version.size}\0{version.mtime_ns}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
