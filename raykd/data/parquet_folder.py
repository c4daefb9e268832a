"""A person's own images as Parquet, in the layout that CIFAR-10 is read from: see parquet.py and parquet_files.py.

Classes have the names that the hub's metadata gives the column of labels, where it does; else their numbers. Where the
labels are text, they are the classes' names, sorted.
"""

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa

from raykd.data import memory, parquet, parquet_files, pictures
from raykd.data.parquet_labels import class_names, label_column, require_same_names, schema_of
from raykd.data.parts import TRAIN, choose
from raykd.data.plain_files import listed
from raykd.data.types import Split, Stored
from raykd.errors import DataError, plural

LAYOUT = "train.parquet and test.parquet, or several files each: train-00000-of-00002.parquet"


def find(place: Path, image_size: int | None) -> Stored:
    """The images below `place`; every label of train is read, no picture but one.

    image_size: pixels on a side of all; None where they are squares of one size already.
    Raises: DataError, naming file and remedy, for whatever is not as the layout promises.
    """
    if not place.is_dir():
        raise DataError(f"{place}: no such folder; wants {LAYOUT} there, below --data-dir or at an absolute path")
    files = parquet_files.find(place)
    parts = choose(place, files, LAYOUT, "Parquet of", list(files) or _names_in(place))
    train, test = files[TRAIN], files[parts.test]
    schemas = [schema_of(file) for file in (*train, *test)]
    column = label_column(train[0], schemas[0])
    is_text = column in schemas[0].names and parquet.is_text(schemas[0].field(column).type)
    for file, schema in zip((*train, *test), schemas, strict=True):
        parquet.image_column(file, schema, column, is_text)
    require_same_names((*train, *test), schemas, column)
    names = _classes(train, column, is_text, class_names(schemas[0], column))
    first = pictures.wanted_of(image_size, *parquet.first_picture(train[0], column, is_text))
    known = f"train's are {names[0]} to {names[-1]}" if is_text else f"train's are 0 to {len(names) - 1}"
    refusal = f"{known}: leave the row out, or mend its label"
    wanted = parquet.Wanted(first, len(names), refusal, column, names if is_text else None)

    def decode() -> tuple[Split, Split]:
        num_images = sum(parquet.num_rows(file) for file in (*train, *test))
        memory.require_room(place, num_images, first.image_size)
        return parquet.read(train, wanted), parquet.read(test, wanted)

    hashes = [parquet.hashes(part) for part in (train, test)]
    identity = hashlib.sha256(f"{parquet.identity_of(*hashes)} at {first.image_size}".encode()).hexdigest()
    return Stored(identity, first.image_size, names, decode, notes=(*parts.notes, *_shared(test, *hashes)))


def _classes(files: tuple[Path, ...], column: str, is_text: bool, names: tuple[str, ...] | None) -> tuple[str, ...]:
    """Their names, by label. names: of the metadata. Raises DataError where a label has no training image."""
    read = [parquet.labels_of(file, column, is_text).drop_null() for file in files]
    if is_text:
        names = tuple(sorted({text for found in read for text in found.unique().to_pylist()}))
        present = set(range(len(names)))
    else:
        labels = np.unique(np.concatenate([_whole_numbers(found) for found in read]))
        present = {label for label in labels.tolist() if label >= 0}  # one below is refused with its row
    num_classes = len(names) if names else max(present, default=-1) + 1
    if len(present) < num_classes:
        absent = next(label for label in range(num_classes) if label not in present)
        called = f" ('{names[absent]}')" if names else ""
        raise DataError(
            f"{files[0]}: no training image has label {absent}{called}, of {num_classes} classes; "
            "number the classes that there are from 0, without a gap"
        )
    if num_classes < 2:
        raise DataError(
            f"{files[0]}: its labels name {plural(num_classes, 'class', 'classes')}, and at least two are required"
        )
    if names and len(set(names)) < len(names):
        twice = next(name for row, name in enumerate(names) if name in names[:row])
        raise DataError(f"{files[0]}: two of its classes are called '{twice}'; rename one in the ClassLabel")
    return names or tuple(str(label) for label in range(num_classes))


def _whole_numbers(labels: pa.ChunkedArray) -> np.ndarray:
    return labels.to_numpy().astype(np.int64)


def _names_in(place: Path) -> list[str]:
    """Return the Parquet files at and below `place`, else what lies there."""
    files = [str(file.relative_to(place)) for file in sorted(place.rglob("*.parquet"))]
    return files or [entry.name for entry in listed(place)]


def _shared(test: tuple[Path, ...], train_hashes: list[bytes], test_hashes: list[bytes]) -> tuple[str, ...]:
    """Return a caution where a file to test on is also trained on."""
    shared = [file for file, found in zip(test, test_hashes, strict=True) if found in train_hashes]
    return tuple(
        f"{file.name} of the test set is also trained on: it has the content of a file of train" for file in shared
    )
