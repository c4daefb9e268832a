"""A folder of images by class, as torchvision.datasets.ImageFolder has it:

    PLACE/train/<class>/*.png      or .jpg, .jpeg, at any depth; hidden files are passed over
    PLACE/test/<class>/*.png       of the same classes, or of some of them; else val/, valid/ or validation/

Classes are numbered from 0 by their names, sorted. A picture of another size is fitted: see pictures.py.
"""

import hashlib
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from raykd.data import memory, pictures
from raykd.data.parts import PARTS, TRAIN, choose, has_both
from raykd.data.plain_files import AGAIN, listed, require_file, walk
from raykd.data.types import Split, Stored
from raykd.errors import DataError, did_you_mean, plural

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
    parts = choose(place, _parts_in(place), LAYOUT, "folder", [entry.name for entry in listed(place)])
    folders = _classes(place / TRAIN)
    names = tuple(sorted(folders))
    if len(names) < 2:
        raise DataError(
            f"{place / TRAIN}: has {plural(len(names), 'folder')} of classes, and at least two are required"
        )
    train, test = _files(place / TRAIN, names, folders), _files(place / parts.test, names, _classes(place / parts.test))
    wanted = pictures.wanted_of(image_size, str(train.files[0]), _read(train.files[0]))

    def decode() -> tuple[Split, Split]:
        memory.require_room(place, len(train.files) + len(test.files), wanted.image_size)
        return _decode(train, wanted), _decode(test, wanted)

    hashes = [pictures.in_threads(_hash, part.files) for part in (train, test)]
    identity = _identity(names, (train, test), hashes, wanted.image_size)
    notes = (*parts.notes, *_shared(test, *hashes))
    return Stored(identity, wanted.image_size, names, decode, notes=notes)


def is_there(place: Path) -> bool:
    """Whether `place` looks like this layout; `find` says what is wrong with it."""
    return has_both(_parts_in(place))


def _parts_in(place: Path) -> list[str]:
    return [part for part in PARTS if (place / part).is_dir()]


def _classes(part: Path) -> dict[str, Path]:
    """Return the folder of each class by the class's name.

    Names are compared in Unicode's composed form: macOS writes an accent as a character of its own, Linux does not.
    """
    folders: dict[str, Path] = {}
    for entry in listed(part):
        if entry.suffix.lower() in SUFFIXES:
            require_file(entry)
            raise DataError(f"{entry}: lies in no class's folder; wants {LAYOUT}")
        if entry.is_dir():
            name = unicodedata.normalize("NFC", entry.name)
            if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name):
                raise DataError(f"{entry}: its name is that of a class and not plain text in UTF-8; rename the folder")
            if name in folders:
                raise DataError(
                    f"{entry}: has the same name as another folder there in another Unicode form; merge them"
                )
            folders[name] = entry
        elif entry.is_symlink():
            require_file(entry)  # one that leads nowhere may be a class
    return folders


def _files(part: Path, names: Sequence[str], folders: Mapping[str, Path]) -> _Part:
    for name, folder in folders.items():
        if name not in names:
            raise DataError(
                f"{folder}: a class that train lacks{did_you_mean(name, names)}; "
                "train's folders name the classes: rename it, or take it away"
            )
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        found = _pictures(folders[name]) if name in folders else []
        files += found
        labels += [label] * len(found)
    if not files:
        raise DataError(f"{part}: has no folder of a class; wants {LAYOUT}")
    return _Part(tuple(files), tuple(labels))


def _pictures(folder: Path) -> list[Path]:
    """Every picture of a class, by its path below the class's folder. Raises DataError for an empty class."""
    found = list(walk(folder, SUFFIXES))
    for path in found:
        require_file(path)
        if path.suffix.lower() not in SUFFIXES:
            raise DataError(f"{path}: is no {' or '.join(SUFFIXES)}; convert it, or take it out of the class's folder")
    if not found:
        raise DataError(f"{folder}: a class without pictures; put some there, or remove the folder")
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def _shared(test: _Part, train_hashes: Sequence[bytes], test_hashes: Sequence[bytes]) -> tuple[str, ...]:
    """Return a caution where pictures to test on are also trained on."""
    known = set(train_hashes)
    shared = [file for file, found in zip(test.files, test_hashes, strict=True) if found in known]
    if not shared:
        return ()
    return (f"{len(shared)} of {len(test.files)} test images are also training images, such as {shared[0]}",)


def _identity(names: Sequence[str], parts: Sequence[_Part], hashes: Sequence[Sequence[bytes]], image_size: int) -> str:
    """sha256 over the classes and their files' bytes; what files are called, and where they lie, does not count."""
    digest = hashlib.sha256(f"image folder at {image_size}".encode())
    for part, found_in_part in zip(parts, hashes, strict=True):
        for label, found in zip(part.labels, found_in_part, strict=True):
            digest.update(f"{label} {names[label]}\0".encode() + found)
        digest.update(b"end of part")
    return digest.hexdigest()


def _hash(path: Path) -> bytes:
    return hashlib.sha256(_read(path)).digest()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); {AGAIN}") from error
    except MemoryError as error:
        raise MemoryError(f"{path}") from error


def _decode(part: _Part, wanted: pictures.Wanted) -> Split:
    pixels = np.empty((len(part.files), wanted.image_size, wanted.image_size, 3), dtype=np.uint8)
    deep = pictures.decode_all(pixels, lambda row: (f"{part.files[row]}", _read(part.files[row])), wanted)
    pictures.require_full_range(deep)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)  # channels-last strides
    return Split(images, torch.tensor(part.labels, dtype=torch.int64))
