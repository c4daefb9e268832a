"""A folder of WebDataset shards: tar files of images and labels, as the Hub's timm/imagenet-1k-wds has them.

    PLACE/train-000000.tar ...         or NAME-train-000000.tar, train-00000-of-00010.tar, or train.tar
    PLACE/validation-000000.tar ...    or test-, valid-, val-, dev-
    PLACE/classes.txt                  or classnames.txt: a class name in each line; otherwise classes are numbers

    KEY.jpg, .jpeg or .png             an image
    KEY.cls                            its label from 0 as text, or KEY.json with the field "label"

Names are checked for completeness: the numbers of a split are consecutive from 0. Only the headers and the labels are
read to list a shard; other members are ignored. The images of a shard are in the order of the keys' first members.
"""

import json
import re
import tarfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch

from raykd.data import image_decoding, memory
from raykd.data.image_decoding import TargetSize
from raykd.data.regular_files import REDOWNLOAD, FileVersion, list_folder, require_regular_file
from raykd.data.sources import (
    EncodedImage,
    ImageSource,
    content_identity,
    hash_files,
    identity_at_size,
    key_of,
    name_with_index,
    notes_on_shared_files,
    split_by_size,
)
from raykd.data.splits import DATA_NAME_REMEDY, SPLIT_NAMES, TRAIN, choose_test_split
from raykd.data.types import Channels, Split, StoredDataset
from raykd.data.undecoded import sample_of
from raykd.disk.lookup import is_file, is_folder
from raykd.errors import DataError, plural, shown

LAYOUT = "train-000000.tar and validation-000000.tar (or test-, and NAME- before it)"
_NAME = re.compile(
    rf"(?P<head>(?:.*[-_.])?)(?P<split>{'|'.join(SPLIT_NAMES)})(?:[-_](?P<index>\d+)(?:-of-(?P<total>\d+))?)?\.tar"
)
_IMAGE_SUFFIXES = ("jpg", "jpeg", "png")
_CLASS_FILES = ("classes.txt", "classnames.txt")
_MAX_LABEL_BYTES = 1 << 20


class TarImage(NamedTuple):
    """An image in a tar file. key: the name of its members, without suffix. offset, size: its bytes in the file."""

    key: str
    offset: int
    size: int
    label: int


LabeledTars = tuple[tuple[FileVersion, tuple[TarImage, ...]], ...]  # the files of one split, and the images in each


@dataclass(frozen=True)
class TarUnit:
    """Consecutive images of one tar file. file: the tar file if they are its first images, else None."""

    place: Path
    version: FileVersion
    contents: tuple[TarImage, ...]
    file: Path | None

    @property
    def num_images(self) -> int:
        return len(self.contents)

    @property
    def num_bytes(self) -> int:
        return sum(image.size for image in self.contents)

    @property
    def key(self) -> str:
        return key_of([self.version], self.place, self.contents)

    def images(self) -> Iterator[EncodedImage]:
        with _opened(self.version.path) as stream:
            for image in self.contents:
                yield _read(stream, self.version.path, image)
        self.version.require_unchanged()


@dataclass(frozen=True)
class TarSource(ImageSource):
    """A folder of tar files, whose members were listed."""

    train: LabeledTars
    test: LabeledTars

    @property
    def num_images(self) -> tuple[int, int]:
        train, test = (sum(len(images) for _, images in split) for split in (self.train, self.test))
        return train, test

    def first_image(self) -> tuple[str, bytes]:
        file, images = self.train[0]
        with _opened(file.path) as stream:
            first = _read(stream, file.path, images[0])
        return first.where, first.encoded

    def labels(self) -> tuple[torch.Tensor, torch.Tensor]:
        return _labels_of(self.train), _labels_of(self.test)

    def every_nth(self, n: int) -> tuple[Iterator[EncodedImage], Iterator[EncodedImage]]:
        train, test = (
            chain.from_iterable(TarUnit(self.place, file, images[::n], None).images() for file, images in split)
            for split in (self.train, self.test)
        )
        return train, test

    def units(self) -> tuple[list[TarUnit], list[TarUnit]]:
        train, test = ([unit for file in split for unit in self._units_of(*file)] for split in (self.train, self.test))
        return train, test

    def _units_of(self, file: FileVersion, images: tuple[TarImage, ...]) -> Iterator[TarUnit]:
        for part in split_by_size(image.size for image in images):
            yield TarUnit(self.place, file, images[part], file.path if part.start == 0 else None)

    def stored_dataset(self, image_size: int | None, checks_images: bool = False) -> StoredDataset:
        target = image_decoding.target_size(image_size, self.first_image)

        def decode() -> tuple[Split, Split]:
            memory.require_memory(self.place, sum(self.num_images), target.image_size)
            return _decode(self.train, target), _decode(self.test, target)

        files = [[file for file, _ in split] for split in (self.train, self.test)]
        digests = [hash_files(split_files) for split_files in files]
        identity = identity_at_size(content_identity("webdataset", *digests), target.image_size)
        notes = (*self.notes, *notes_on_shared_files([file.path for file in files[1]], *digests))
        sample = partial(sample_of, self, target)
        return StoredDataset(identity, target.image_size, self.class_names, decode, sample, self.statistics, notes)


def find(place: Path, ignored: Collection[str] = (), statistics: tuple[Channels, Channels] | None = None) -> TarSource:
    """List the images in the tar files of `place`, and read their labels. No image is read.

    ignored: names of splits that are not read, such as one without labels. statistics: published mean and std.
    Raises DataError, with file and remedy, for anything that differs from the layout.
    """
    if not is_folder(place):
        raise DataError(f"{place}: no such folder; {DATA_NAME_REMEDY}, with {LAYOUT}")
    files = {split: files for split, files in find_files(place).items() if split not in ignored}
    existing = list(files) or [entry.name for entry in list_folder(place)]
    test_name, notes = choose_test_split(place, files, LAYOUT, "tar files of", existing)
    splits = []
    for name in (TRAIN, test_name):
        versions = [require_regular_file(file) for file in files[name]]
        splits.append(tuple(zip(versions, image_decoding.map_in_threads(_list_images, files[name]), strict=True)))
    train, test = splits
    names = _class_names(place, train)
    for file, images in test:
        for image in images:
            if image.label >= len(names):
                raise DataError(
                    f"{file.path}: {image.key} has label {image.label}; train's are 0 to {len(names) - 1}: leave the "
                    "image out, or correct its label"
                )
    return TarSource("webdataset", place, names, notes, statistics, train, test)


def find_files(place: Path) -> dict[str, tuple[Path, ...]]:
    """Return the tar files of each split in `place`, in order. Raises DataError if some are missing or redundant."""
    by_split: dict[str, list[re.Match[str]]] = {}
    for entry in list_folder(place) if is_folder(place) else []:
        if entry.name.endswith((".tar.gz", ".tgz")) and _NAME.fullmatch(f"{entry.name.partition('.t')[0]}.tar"):
            raise DataError(f"{entry}: is compressed, and images cannot be found in it without reading all; run gunzip")
        if match := _NAME.fullmatch(entry.name):
            by_split.setdefault(match["split"], []).append(match)
    return {split: _require_complete(place, matches) for split, matches in by_split.items()}


def _require_complete(place: Path, matches: Sequence[re.Match[str]]) -> tuple[Path, ...]:
    """Return the files of one split in the order of their numbers."""
    kinds = {(match["head"], match["total"], match["index"] is None): match.string for match in matches}
    if len(kinds) > 1 or (len(matches) > 1 and matches[0]["index"] is None):
        one, other, *_ = *kinds.values(), matches[-1].string
        raise DataError(f"{place}: {one} and {other} are from two uploads; keep the files of one")
    by_index = {int(match["index"] or 0): match.string for match in matches}
    if len(by_index) < len(matches):
        raise DataError(f"{place}: {matches[0].string} and others have the same number; keep the files of one upload")
    total = int(matches[0]["total"] or max(by_index) + 1)
    missing = next((index for index in range(total) if index not in by_index), None)
    if missing is not None:
        name = name_with_index(matches[0], missing)
        raise DataError(
            f"{place}: has {matches[0].string} and no {name}, of {total} numbered from 0; copy or download it too"
        )
    if len(by_index) > total:
        raise DataError(f"{place / by_index[max(by_index)]}: is beyond the {total} files that the names promise")
    return tuple(place / by_index[index] for index in range(total))


def _list_images(path: Path) -> tuple[TarImage, ...]:
    """Return the images of a tar file with their labels. Raises DataError if it is damaged, or a label is missing."""
    images: dict[str, tuple[int, int]] = {}
    labels: dict[str, int] = {}
    keys: dict[str, list[str]] = {}  # the suffixes of each key
    try:
        with path.open("rb") as stream, tarfile.open(path, "r:") as tar:
            for member in tar:
                key, suffix = _key_and_suffix(member.name)
                if not member.isreg() or not key:
                    continue
                keys.setdefault(key, []).append(suffix)
                if suffix in _IMAGE_SUFFIXES:
                    if key in images:
                        raise DataError(f"{path}: {key} has two images; give each image another key")
                    images[key] = member.offset_data, member.size
                elif suffix == "cls" or (suffix == "json" and key not in labels):
                    stream.seek(member.offset_data)
                    _read_label(path, stream.read(min(member.size, _MAX_LABEL_BYTES)), member, key, suffix, labels)
            _require_end(path, tar)
    except (tarfile.TarError, OSError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path}: truncated or no tar file ({reason}); {REDOWNLOAD}") from error
    return _paired(path, keys, images, labels)


def _key_and_suffix(name: str) -> tuple[str, str]:
    """Return ('a/0001', 'jpg') for 'a/0001.jpg': the key ends at the first dot of the file's name."""
    folder, slash, file = name.removeprefix("./").rpartition("/")
    stem, _, suffix = file.partition(".")
    return f"{folder}{slash}{stem}" if stem else "", suffix.lower()


def _read_label(
    path: Path, text: bytes, member: tarfile.TarInfo, key: str, suffix: str, labels: dict[str, int]
) -> None:
    """Set labels[key] to the label in the text of a member. JSON without one is ignored: it may be a caption."""
    try:
        if suffix == "cls":
            label = int(text.decode("ascii"))
        else:
            values = json.loads(text)
            if not isinstance(values, dict) or "label" not in values:
                return
            label = values["label"]
            if isinstance(label, bool) or not isinstance(label, int):
                raise ValueError
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path}: the label in {member.name} is {shown(text[:40])}, not an integer from 0; correct it"
        ) from error
    if label < 0:
        raise DataError(f"{path}: {member.name} has label {label}; leave images without a label out")
    labels[key] = label


def _require_end(path: Path, tar: tarfile.TarFile) -> None:
    """Raise DataError unless the last member is followed by the end mark: tarfile stops silently at damaged headers."""
    with path.open("rb") as stream:
        stream.seek(tar.offset)
        if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise DataError(f"{path}: truncated or damaged at byte {tar.offset:,}; {REDOWNLOAD}")


def _paired(
    path: Path, keys: dict[str, list[str]], images: dict[str, tuple[int, int]], labels: dict[str, int]
) -> tuple[TarImage, ...]:
    """Return an image with its label for each key that has both. Raises DataError if a key has only one of them."""
    for key, suffixes in keys.items():
        if key in labels and key not in images:
            others = ", ".join(f".{suffix}" for suffix in suffixes if suffix not in ("cls", "json")) or "nothing else"
            raise DataError(f"{path}: {key} has a label and no .jpg, .jpeg or .png, but {others}; convert the image")
        if key in images and key not in labels:
            raise DataError(f'{path}: {key} has no label; add {key}.cls, or {key}.json with the field "label"')
    if not images:
        raise DataError(f'{path}: has no images; it requires KEY.jpg and KEY.cls, or KEY.json with the field "label"')
    return tuple(TarImage(key, *images[key], labels[key]) for key in keys if key in images)


def _class_names(place: Path, train: LabeledTars) -> tuple[str, ...]:
    """Return the class names by label. Raises DataError if a label has no training image."""
    present = {image.label for _, images in train for image in images}
    path = next((place / name for name in _CLASS_FILES if is_file(place / name)), None)
    names = _read_names(path) if path else tuple(str(label) for label in range(max(present) + 1))
    if max(present) >= len(names):
        raise DataError(
            f"{path}: names {plural(len(names), 'class', 'classes')}, and label {max(present)} has no name; add it"
        )
    if absent := [label for label in range(len(names)) if label not in present]:
        raise DataError(
            f"{place}: no training image has label {absent[0]}, of {len(names)} classes; number the existing classes "
            "from 0, without a gap"
        )
    if len(names) < 2:
        raise DataError(f"{place}: its labels name {len(names)} class, and at least two are required")
    return names


def _read_names(path: Path) -> tuple[str, ...]:
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); write one class name in each line, in UTF-8") from error
    while names and not names[-1]:
        names.pop()
    if duplicate := next((name for name in names if names.count(name) > 1), None):
        raise DataError(f"{path}: two of its classes are called '{duplicate}'; rename one")
    return tuple(names)


def _decode(files: LabeledTars, target: TargetSize) -> Split:
    images = [(file.path, image) for file, contents in files for image in contents]
    pixels = np.empty((len(images), target.image_size, target.image_size, 3), dtype=np.uint8)

    def read(index: int) -> tuple[str, bytes]:
        path, image = images[index]
        with _opened(path) as stream:
            return _read(stream, path, image)[:2]

    image_decoding.require_full_range(image_decoding.decode_all(pixels, read, target))
    return Split(torch.from_numpy(pixels).permute(0, 3, 1, 2), _labels_of(files))  # channels-last strides


def _labels_of(files: LabeledTars) -> torch.Tensor:
    return torch.tensor([image.label for _, images in files for image in images], dtype=torch.int64)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Open a tar file. An OSError inside the context becomes a DataError."""
    try:
        with path.open("rb") as stream:
            yield stream
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); {REDOWNLOAD}") from error


def _read(stream: BinaryIO, path: Path, image: TarImage) -> EncodedImage:
    where = f"{path}: {image.key}"
    stream.seek(image.offset)
    encoded = stream.read(image.size)
    if len(encoded) < image.size:
        raise DataError(f"{where} is truncated; {REDOWNLOAD}")
    return EncodedImage(where, encoded, image.label)
