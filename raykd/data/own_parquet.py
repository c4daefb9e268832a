"""A person's own images as Parquet, in the layout that CIFAR-10 is read from: see parquet.py.

Below PLACE, train.parquet and test.parquet, or any of the names that the hub gives them; a part may be several files.
Classes have the names that the hub's metadata gives the column 'label', where it does; else their numbers.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa

from raykd.data import memory, parquet, pictures
from raykd.data.dataset import Split
from raykd.data.stored import Stored
from raykd.errors import DataError
from raykd.messages import plural

LAYOUT = "train.parquet and test.parquet, or several files each: train-00000-of-00002.parquet"


def find(place: Path, image_size: int | None) -> Stored:
    """The images below `place`; every label of train is read, no picture but one.

    image_size: pixels on a side of all; None where they are squares of one size already.
    Raises: DataError, naming file and remedy, for whatever is not as the layout promises.
    """
    if not place.is_dir():
        raise DataError(f"{place}: no such folder; wants {LAYOUT} there, below --data-dir or at an absolute path")
    train, test = parquet.find_files(place, "train"), parquet.find_files(place, "test")
    for part, files in (("train", train), ("test", test)):
        if not files:
            raise DataError(f"{place}: has no Parquet of {part}; wants {LAYOUT}")
    names = _classes(train)
    first = pictures.wanted_of(image_size, *parquet.first_picture(train[0], "label"))
    known = f"train's are 0 to {len(names) - 1}: leave the row out, or mend its label"
    wanted = parquet.Wanted(first, len(names), known)

    def decode() -> tuple[Split, Split]:
        num_images = sum(parquet.num_rows(file) for file in (*train, *test))
        memory.require_room(place, num_images, first.image_size)
        return parquet.read(train, wanted), parquet.read(test, wanted)

    identity = hashlib.sha256(f"{parquet.identity(train, test)} at {first.image_size}".encode()).hexdigest()
    return Stored(identity, first.image_size, names, decode)


def _classes(files: tuple[Path, ...]) -> tuple[str, ...]:
    """Their names, by label. Raises DataError where a label has no training image."""
    read = [parquet.labels_of(file, "label") for file in files]
    labels = np.unique(np.concatenate([found.drop_null().to_numpy().astype(np.int64) for found, _ in read]))
    labels = labels[labels >= 0]  # one below is refused with its row
    names = _names(read[0][1])
    num_classes = len(names) if names else int(labels.max(initial=-1)) + 1
    present = set(labels.tolist())
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
    return names or tuple(str(label) for label in range(num_classes))


def _names(schema: pa.Schema) -> tuple[str, ...] | None:
    """What the hub's library writes of a ClassLabel; None where it has not."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features["label"]["names"]
    except (KeyError, ValueError, TypeError):
        return None
    return tuple(str(name) for name in names) if isinstance(names, list) else None
