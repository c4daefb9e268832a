"""A folder of images per class, in the layout of torchvision.datasets.ImageFolder:

    PLACE/train/<class>/*.png      or .jpg, .jpeg, at any depth; hidden files are skipped
    PLACE/test/<class>/*.png       the same classes, or some of them; else val/, valid/, validation/ or dev/

Classes are numbered from 0 by their sorted names. Images of another size are resized: see image_decoding.py.
"""

import hashlib
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from raykd.data import image_decoding, memory
from raykd.data.image_decoding import TargetSize
from raykd.data.regular_files import REDOWNLOAD, list_folder, require_regular_file, walk
from raykd.data.splits import NAMED_FOLDER, SPLIT_NAMES, TRAIN, choose_test_split, has_train_and_test
from raykd.data.types import Split, StoredDataset
from raykd.errors import DataError, did_you_mean, plural

SUFFIXES = (".png", ".jpg", ".jpeg")
LAYOUT = "train/<class>/*.png and test/<class>/*.png (or .jpg)"


@dataclass(frozen=True)
class _LabeledFiles:
    """The files of one split, class by class, and the label of each."""

    files: tuple[Path, ...]
    labels: tuple[int, ...]


def find(place: Path, image_size: int | None) -> StoredDataset:
    """Find the images below `place`. Each file is read once, to hash it.

    image_size: pixels per side of all images; None if they already are squares of one size.
    Raises: DataError, with file or folder and remedy, for anything that differs from the layout.
    """
    if not place.is_dir():
        raise DataError(f"{place}: no such folder; {NAMED_FOLDER}, with {LAYOUT}")
    entries = [entry.name for entry in list_folder(place)]
    test_name, notes = choose_test_split(place, _splits_in(place), LAYOUT, "folder", entries)
    train_folders = _class_folders(place / TRAIN)
    names = tuple(sorted(train_folders))
    if len(names) < 2:
        raise DataError(f"{place / TRAIN}: has {plural(len(names), 'folder')} of classes; at least two are required")
    train = _list_files(place / TRAIN, names, train_folders)
    test = _list_files(place / test_name, names, _class_folders(place / test_name))
    target = image_decoding.target_size(image_size, str(train.files[0]), _read(train.files[0]))

    def decode() -> tuple[Split, Split]:
        memory.require_memory(place, len(train.files) + len(test.files), target.image_size)
        return _decode(train, target), _decode(test, target)

    hashes = [image_decoding.map_in_threads(_hash, split.files) for split in (train, test)]
    identity = _identity(names, (train, test), hashes, target.image_size)
    train_hashes = set(hashes[0])
    if shared := [file for file, digest in zip(test.files, hashes[1], strict=True) if digest in train_hashes]:
        note = f"{len(shared)} of {len(test.files)} test images are also training images, such as {shared[0]}"
        notes = (*notes, note)
    return StoredDataset(identity, target.image_size, names, decode, notes=notes)


def exists(place: Path) -> bool:
    """Return whether `place` looks like this layout; `find` raises for what is wrong with it."""
    return has_train_and_test(_splits_in(place))


def _splits_in(place: Path) -> list[str]:
    return [name for name in SPLIT_NAMES if (place / name).is_dir()]


def _class_folders(split: Path) -> dict[str, Path]:
    """Return the folder of each class by the class's name.

    Names are compared in Unicode's composed form: macOS stores an accent as a separate character, Linux does not.
    """
    folders: dict[str, Path] = {}
    for entry in list_folder(split):
        if entry.suffix.lower() in SUFFIXES:
            require_regular_file(entry)
            raise DataError(f"{entry}: is an image outside of the class folders; move it into one: {LAYOUT}")
        if entry.is_dir():
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


def _list_files(split: Path, names: Sequence[str], folders: Mapping[str, Path]) -> _LabeledFiles:
    for name, folder in folders.items():
        if name not in names:
            raise DataError(
                f"{folder}: a class that train lacks{did_you_mean(name, names)}; "
                "train's folders name the classes: rename it, or remove it"
            )
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        class_files = _list_class(folders[name]) if name in folders else []
        files += class_files
        labels += [label] * len(class_files)
    if not files:
        raise DataError(f"{split}: has no folder of a class; requires {LAYOUT}")
    return _LabeledFiles(tuple(files), tuple(labels))


def _list_class(folder: Path) -> list[Path]:
    """Return every image of a class, sorted by its path in the class's folder. Raises: DataError if there is none."""
    files = list(walk(folder, SUFFIXES))
    for path in files:
        require_regular_file(path)
        if path.suffix.lower() not in SUFFIXES:
            kinds = " or ".join(SUFFIXES)
            raise DataError(f"{path}: is not a {kinds} file; convert it, or remove it from the class's folder")
    if not files:
        raise DataError(f"{folder}: a class without images; add some, or remove the folder")
    return sorted(files, key=lambda path: path.relative_to(folder).as_posix())


def _identity(
    names: Sequence[str], splits: Sequence[_LabeledFiles], hashes: Sequence[Sequence[bytes]], image_size: int
) -> str:
    """Return sha256 over the classes and their files' bytes; names and folders of the files do not count."""
    digest = hashlib.sha256(f"image folder at {image_size}".encode())
    for split, split_hashes in zip(splits, hashes, strict=True):
        for label, file_hash in zip(split.labels, split_hashes, strict=True):
            digest.update(f"{label} {names[label]}\0".encode() + file_hash)
        digest.update(b"end of part")
    return digest.hexdigest()


def _hash(path: Path) -> bytes:
    return hashlib.sha256(_read(path)).digest()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); {REDOWNLOAD}") from error
    except MemoryError as error:
        raise MemoryError(f"{path}") from error


def _decode(split: _LabeledFiles, target: TargetSize) -> Split:
    pixels = np.empty((len(split.files), target.image_size, target.image_size, 3), dtype=np.uint8)
    maxima = image_decoding.decode_all(pixels, lambda i: (f"{split.files[i]}", _read(split.files[i])), target)
    image_decoding.require_full_range(maxima)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)  # channels-last strides
    return Split(images, torch.tensor(split.labels, dtype=torch.int64))
