"""A folder of images by class, as torchvision.datasets.ImageFolder has it:

    PLACE/train/<class>/*.png      or .jpg, .jpeg, at any depth; hidden files are passed over
    PLACE/test/<class>/*.png       of the same classes, or of some of them

Classes are numbered from 0 by their names, sorted. A picture of another size is fitted: see pictures.py.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from raykd.data import memory, pictures
from raykd.data.dataset import Split
from raykd.data.stored import Stored
from raykd.errors import DataError, did_you_mean
from raykd.messages import plural

SUFFIXES = (".png", ".jpg", ".jpeg")
LAYOUT = "train/<class>/*.png and test/<class>/*.png (or .jpg)"


@dataclass(frozen=True)
class _Part:
    """The files of train or test, class by class, and each one's class as a number."""

    files: tuple[Path, ...]
    labels: tuple[int, ...]


def find(place: Path, image_size: int | None) -> Stored:
    """The images below `place`, each read once for its hash.

    image_size: pixels on a side of all; None where they are squares of one size already.
    Raises: DataError, naming file or folder and remedy, for whatever is not as the layout promises.
    """
    if not place.is_dir():
        raise DataError(f"{place}: no such folder; wants {LAYOUT} there, below --data-dir or at an absolute path")
    for part in ("train", "test"):
        if not (place / part).is_dir():
            raise DataError(f"{place}: has no folder {part}; wants {LAYOUT}")
    names = _classes(place / "train")
    if len(names) < 2:
        raise DataError(
            f"{place / 'train'}: has {plural(len(names), 'folder')} of classes, and at least two are required"
        )
    train, test = _files(place / "train", names), _files(place / "test", names)
    wanted = pictures.wanted_of(image_size, str(train.files[0]), _read(train.files[0]))

    def decode() -> tuple[Split, Split]:
        memory.require_room(place, len(train.files) + len(test.files), wanted.image_size)
        return _decode(train, wanted), _decode(test, wanted)

    return Stored(_identity(names, (train, test), wanted.image_size), wanted.image_size, names, decode)


def is_there(place: Path) -> bool:
    """Whether `place` looks like this layout; `find` says what is wrong with it."""
    return all((place / part).is_dir() for part in ("train", "test"))


def _classes(part: Path) -> tuple[str, ...]:
    """Of train or test, sorted."""
    loose = [entry for entry in sorted(part.iterdir()) if entry.is_file() and entry.suffix.lower() in SUFFIXES]
    if loose:
        raise DataError(f"{loose[0]}: lies in no class's folder; wants {LAYOUT}")
    return tuple(sorted(entry.name for entry in part.iterdir() if entry.is_dir() and not entry.name.startswith(".")))


def _files(part: Path, names: Sequence[str]) -> _Part:
    present = _classes(part)
    for name in present:
        if name not in names:
            raise DataError(
                f"{part / name}: a class that train lacks{did_you_mean(name, names)}; "
                "train's folders name the classes: rename it, or take it away"
            )
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        found = _pictures(part / name) if name in present else []
        files += found
        labels += [label] * len(found)
    if not files:
        raise DataError(f"{part}: has no folder of a class; wants {LAYOUT}")
    return _Part(tuple(files), tuple(labels))


def _pictures(folder: Path) -> list[Path]:
    """Every picture of a class, by its path below the class's folder. Raises DataError for an empty class."""
    found = []
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(parent) / name for name in names if not name.startswith(".")]
    for path in sorted(found):
        if path.suffix.lower() not in SUFFIXES:
            raise DataError(f"{path}: is no {' or '.join(SUFFIXES)}; convert it, or take it out of the class's folder")
    if not found:
        raise DataError(f"{folder}: a class without pictures; put some there, or remove the folder")
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def _identity(names: Sequence[str], parts: Sequence[_Part], image_size: int) -> str:
    """sha256 over the classes and their files' bytes; what files are called, and where they lie, does not count."""
    digest = hashlib.sha256(f"image folder at {image_size}".encode())
    for part in parts:
        hashes = pictures.in_threads(_hash, part.files)
        for label, found in zip(part.labels, hashes, strict=True):
            digest.update(f"{label} {names[label]}\0".encode() + found)
        digest.update(b"end of part")
    return digest.hexdigest()


def _hash(path: Path) -> bytes:
    return hashlib.sha256(_read(path)).digest()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); {pictures.AGAIN}") from error


def _decode(part: _Part, wanted: pictures.Wanted) -> Split:
    pixels = np.empty((len(part.files), wanted.image_size, wanted.image_size, 3), dtype=np.uint8)
    pictures.decode_all(pixels, lambda row: (f"{part.files[row]}", _read(part.files[row])), wanted)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)  # channels-last strides
    return Split(images, torch.tensor(part.labels, dtype=torch.int64))
