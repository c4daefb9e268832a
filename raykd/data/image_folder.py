"""A folder of images per class, in the layout of torchvision.datasets.ImageFolder:

    PLACE/train/<class>/*.png      or .jpg, .jpeg, at any depth; hidden files are skipped
    PLACE/test/<class>/*.png       the same classes, or some of them; else val/, valid/, validation/ or dev/

Classes are numbered from 0 by their sorted names. Images of another size are resized: see image_decoding.py.
"""

import hashlib
import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from raykd.data import image_decoding, memory
from raykd.data.file_hashes import sha256_of
from raykd.data.image_decoding import TargetSize
from raykd.data.regular_files import FileVersion, list_folder, require_regular_file, walk
from raykd.data.sources import EncodedImage, ImageSource, key_of, split_by_size
from raykd.data.splits import DATA_NAME_REMEDY, SPLIT_NAMES, TRAIN, choose_test_split, has_train_and_test
from raykd.data.types import Channels, Split, StoredDataset
from raykd.data.undecoded import sample_of
from raykd.disk.lookup import is_folder
from raykd.errors import DataError, did_you_mean, plural

SUFFIXES = (".png", ".jpg", ".jpeg")
LAYOUT = "train/<class>/*.png and test/<class>/*.png (or .jpg)"


@dataclass(frozen=True)
class LabeledFiles:
    """The files of one split, class by class, and the label of each."""

    files: tuple[FileVersion, ...]
    labels: tuple[int, ...]


@dataclass(frozen=True)
class FolderUnit:
    """Consecutive files of one split. place: the folder of the data set."""

    place: Path
    files: tuple[FileVersion, ...]
    labels: tuple[int, ...]
    file: None = None

    @property
    def num_images(self) -> int:
        return len(self.files)

    @property
    def num_bytes(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def key(self) -> str:
        return key_of(self.files, self.place, self.labels)

    def images(self) -> Iterator[EncodedImage]:
        for file, label in zip(self.files, self.labels, strict=True):
            yield EncodedImage(str(file.path), file.read(), label)


@dataclass(frozen=True)
class FolderSource(ImageSource):
    """A folder of images per class, whose files were listed."""

    train: LabeledFiles
    test: LabeledFiles

    @property
    def num_images(self) -> tuple[int, int]:
        return len(self.train.files), len(self.test.files)

    def first_image(self) -> tuple[str, bytes]:
        return _read(self.train.files[0])

    def labels(self) -> tuple[torch.Tensor, torch.Tensor]:
        return _labels_of(self.train), _labels_of(self.test)

    def every_nth(self, n: int) -> tuple[Iterator[EncodedImage], Iterator[EncodedImage]]:
        train, test = (FolderUnit(self.place, split.files[::n], split.labels[::n]) for split in (self.train, self.test))
        return train.images(), test.images()

    def units(self) -> tuple[list[FolderUnit], list[FolderUnit]]:
        return self._units_of(self.train), self._units_of(self.test)

    def _units_of(self, split: LabeledFiles) -> list[FolderUnit]:
        slices = split_by_size(file.size for file in split.files)
        return [FolderUnit(self.place, split.files[part], split.labels[part]) for part in slices]

    def stored_dataset(self, image_size: int | None, checks_images: bool = False) -> StoredDataset:
        target = image_decoding.target_size(image_size, self.first_image)

        def decode() -> tuple[Split, Split]:
            memory.require_memory(self.place, sum(self.num_images), target.image_size)
            return _decode(self.train, target), _decode(self.test, target)

        splits = (self.train, self.test)

        def sha256(file: FileVersion) -> bytes:
            check = partial(image_decoding.require_complete, str(file.path), target=target) if checks_images else None
            return sha256_of(file.path, check)

        digests = [image_decoding.map_in_threads(sha256, split.files) for split in splits]
        parts = [(split.labels, split_digests) for split, split_digests in zip(splits, digests, strict=True)]
        identity = identity_of(self.class_names, parts, target.image_size)
        notes, train_digests = self.notes, set(digests[0])
        paths = [file.path for file in self.test.files]
        if shared := [path for path, digest in zip(paths, digests[1], strict=True) if digest in train_digests]:
            note = f"{len(shared)} of {len(paths)} test images are also training images, such as {shared[0]}"
            notes = (*notes, note)
        sample = partial(sample_of, self, target)
        return StoredDataset(identity, target.image_size, self.class_names, decode, sample, self.statistics, notes)


def find(
    place: Path, ignored: Collection[str] = (), statistics: tuple[Channels, Channels] | None = None
) -> FolderSource:
    """List the images below `place`. No image is read.

    ignored: names of splits that are not read, such as one without labels. statistics: published mean and std.
    Raises DataError, with file or folder and remedy, for anything that differs from the layout.
    """
    if not is_folder(place):
        raise DataError(f"{place}: no such folder; {DATA_NAME_REMEDY}, with {LAYOUT}")
    entries = [entry.name for entry in list_folder(place)]
    splits = [name for name in _splits_in(place) if name not in ignored]
    test_name, notes = choose_test_split(place, splits, LAYOUT, "folder", entries)
    train_folders = class_folders(place / TRAIN)
    names = tuple(sorted(train_folders))
    if len(names) < 2:
        raise DataError(f"{place / TRAIN}: has {plural(len(names), 'folder')} of classes; at least two are required")
    train = _list_files(place / TRAIN, names, train_folders)
    test = _list_files(place / test_name, names, class_folders(place / test_name))
    return FolderSource("folder", place, names, notes, statistics, train, test)


def exists(place: Path) -> bool:
    """Return whether `place` looks like this layout. `find` then checks every file name."""
    return has_train_and_test(_splits_in(place))


def _splits_in(place: Path) -> list[str]:
    return [name for name in SPLIT_NAMES if is_folder(place / name)]


def class_folders(split: Path) -> dict[str, Path]:
    """Return the folder of each class by the class's name.

    Names are compared in Unicode's composed form: macOS stores an accent as a separate character, Linux does not.
    """
    folders: dict[str, Path] = {}
    for entry in list_folder(split):
        if entry.suffix.lower() in SUFFIXES:
            require_regular_file(entry)
            raise DataError(f"{entry}: is an image outside of the class folders; move it into one: {LAYOUT}")
        if is_folder(entry):
            name = unicodedata.normalize("NFC", entry.name)
            if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name):
                raise DataError(f"{entry}: a class's name must be plain text in UTF-8; rename the folder")
            if name in folders:
                raise DataError(
                    f"{entry}: has the same name as another folder there in another Unicode form; merge them"
                )
            folders[name] = entry
        elif entry.is_symlink():
            require_regular_file(entry)  # a broken link may stand for a class
    return folders


def _list_files(split: Path, names: Sequence[str], folders: Mapping[str, Path]) -> LabeledFiles:
    for name, folder in folders.items():
        if name not in names:
            raise DataError(
                f"{folder}: a class that train lacks; train's folders name the classes: rename it, or remove it"
                f"{did_you_mean(name, names)}"
            )
    files: list[FileVersion] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        class_files = list_class(folders[name]) if name in folders else []
        files += class_files
        labels += [label] * len(class_files)
    if not files:
        raise DataError(f"{split}: has no folder of a class; requires {LAYOUT}")
    return LabeledFiles(tuple(files), tuple(labels))


def list_class(folder: Path) -> list[FileVersion]:
    """Return every image of a class, sorted by its path in the class's folder. Raises DataError if there is none."""
    files = []
    for path in walk(folder, SUFFIXES):
        files.append(require_regular_file(path))
        if path.suffix.lower() not in SUFFIXES:
            kinds = " or ".join(SUFFIXES)
            raise DataError(f"{path}: is not a {kinds} file; convert it, or remove it from the class's folder")
    if not files:
        raise DataError(f"{folder}: a class without images; add some, or remove the folder")
    return sorted(files, key=lambda file: str(file.path))  # all below `folder`


def identity_of(names: Sequence[str], splits: Sequence[tuple[Sequence[int], Sequence[bytes]]], image_size: int) -> str:
    """Return the SHA-256, hex, of the classes and their files' bytes; names and folders of the files do not count.

    splits: labels and SHA-256 of the images of the training split, and of the test split.
    """
    digest = hashlib.sha256(f"image folder at {image_size}".encode())
    for labels, hashes in splits:
        for label, file_hash in zip(labels, hashes, strict=True):
            digest.update(f"{label} {names[label]}\0".encode() + file_hash)
        digest.update(b"end of part")
    return digest.hexdigest()


def _read(file: FileVersion) -> tuple[str, bytes]:
    """Return the path of a file, for messages, and its bytes."""
    return str(file.path), file.read()


def _decode(split: LabeledFiles, target: TargetSize) -> Split:
    pixels = np.empty((len(split.files), target.image_size, target.image_size, 3), dtype=np.uint8)
    maxima = image_decoding.decode_all(pixels, lambda i: _read(split.files[i]), target)
    image_decoding.require_full_range(maxima)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)  # channels-last strides
    return Split(images, _labels_of(split))


def _labels_of(split: LabeledFiles) -> torch.Tensor:
    return torch.tensor(split.labels, dtype=torch.int64)
