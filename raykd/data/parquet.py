"""Images and labels out of Parquet files in the layout of the Hugging Face hub.

    img or image: struct<bytes: binary, path: string>     the encoded picture, PNG or JPEG
    label: int64                                          0 .. num_classes - 1

Every row is checked: a picture that cannot be decoded, or has a size that is refused, stops the load with its row.
"""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from raykd.data import pictures
from raykd.data.dataset import Split
from raykd.errors import DataError

# A part's files below a folder, {part} being train or test. The hub keeps cifar10 in plain_text/, uploaded
# copies in data/, and its own conversions in plain_text/train/0000.parquet.
LAYOUTS = (
    "{part}.parquet",
    "{part}-*-of-*.parquet",
    "plain_text/{part}-*-of-*.parquet",
    "data/{part}-*-of-*.parquet",
    "{part}/*.parquet",
    "plain_text/{part}/*.parquet",
)
_IMAGE_COLUMNS = ("img", "image")
_ROWS_AT_A_TIME = 1024  # about 2 MB of encoded pictures


@dataclass(frozen=True)
class Wanted:
    """What the rows of a dataset must be.

    labels: what to say of a label that is none of `num_classes`. label_column: cifar100 has two.
    """

    pictures: pictures.Wanted
    num_classes: int
    labels: str
    label_column: str = "label"


def find_files(folder: Path, part: str) -> tuple[Path, ...]:
    """The files of part ('train' or 'test') below folder, in order; () when there are none.

    Raises: DataError when some of a part's numbered files (-00000-of-00002) are missing.
    """
    for layout in LAYOUTS:
        files = tuple(sorted(folder.glob(layout.format(part=part))))
        if files:
            _check_complete(files)
            return files
    return ()


def identity(train_files: tuple[Path, ...], test_files: tuple[Path, ...]) -> str:
    """sha256 over the files' bytes and which part they belong to; names and folders do not count."""
    digest = hashlib.sha256(b"parquet")
    for part, files in ((b"train", train_files), (b"test", test_files)):
        for file in files:
            with file.open("rb") as stream:
                digest.update(part + hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def read(files: tuple[Path, ...], wanted: Wanted) -> Split:
    """All rows of files, in order: images [N, 3, image_size, image_size] and labels.

    Raises: DataError, naming file, row (from 0) and remedy, when anything is not as the layout promises.
    """
    size = wanted.pictures.image_size
    counts = [num_rows(file) for file in files]
    pixels, labels = np.empty((sum(counts), size, size, 3), dtype=np.uint8), np.empty(sum(counts), dtype=np.int64)
    first = 0
    for file, count in zip(files, counts, strict=True):
        row = 0
        for encoded, numbers in _record_batches(file, wanted.label_column):
            _check_labels(file, row, numbers, wanted)
            here = slice(first + row, first + row + len(numbers))
            labels[here] = numbers.to_numpy().astype(np.int64)
            _decode(file, row, encoded, pixels[here], wanted.pictures)
            row += len(numbers)
        first += count
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)  # channels-last strides
    return Split(images, torch.from_numpy(labels))


def num_rows(file: Path) -> int:
    """Of a file, without reading them. Raises: DataError for a file without any, or that is no Parquet."""
    with _opened(file) as stored:
        count = stored.metadata.num_rows
    if not count:
        raise DataError(f"{file}: has 0 rows; {pictures.AGAIN}")
    return count


def first_picture(file: Path, label_column: str) -> tuple[str, bytes]:
    """Where the first row's picture is, and its bytes."""
    for encoded, _ in _record_batches(file, label_column):
        return _bytes_of(file, 0, encoded[0].as_py())
    raise DataError(f"{file}: has 0 rows; {pictures.AGAIN}")


def labels_of(file: Path, label_column: str) -> tuple[pa.ChunkedArray, pa.Schema]:
    """All labels of a file, in order, as they are, and the file's schema. Raises: DataError for another layout."""
    with _opened(file) as stored:
        _image_column(file, stored.schema_arrow, label_column)
        return stored.read(columns=[label_column]).column(label_column), stored.schema_arrow


@contextmanager
def _opened(file: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(file) as stored:
            yield stored
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{file}: cut short or no Parquet file ({reason}); {pictures.AGAIN}") from error


def _check_complete(files: tuple[Path, ...]) -> None:
    numbered = re.search(r"-of-(\d+)\.parquet$", files[0].name)
    if numbered and len(files) != int(numbered[1]):
        raise DataError(
            f"{files[0]}: by its name one of {int(numbered[1])} files, but {len(files)} are there; "
            "keep exactly those that belong together"
        )


def _record_batches(file: Path, label_column: str) -> Iterator[tuple[pa.Array, pa.Array]]:
    """(pictures, labels) of some rows at a time."""
    with _opened(file) as stored:
        image_column = _image_column(file, stored.schema_arrow, label_column)
        for rows in stored.iter_batches(_ROWS_AT_A_TIME, columns=[image_column, label_column]):
            yield rows.column(image_column), rows.column(label_column)


def _image_column(file: Path, schema: pa.Schema, label_column: str) -> str:
    """The name of the column with the pictures."""
    for name in _IMAGE_COLUMNS:
        if name in schema.names and label_column in schema.names:
            kind = schema.field(name).type
            if _holds_bytes(kind) and pa.types.is_integer(schema.field(label_column).type):
                return name
    found = ", ".join(f"'{field.name}': {field.type}" for field in schema) or "none"
    wanted = f"'img' or 'image': struct<bytes: binary, path: string>, and '{label_column}': int64"
    raise DataError(f"{file}: has the columns {found}; wanted {wanted}")


def _holds_bytes(kind: pa.DataType) -> bool:
    if not isinstance(kind, pa.StructType) or kind.get_field_index("bytes") < 0:
        return False
    stored = kind.field("bytes").type
    return pa.types.is_binary(stored) or pa.types.is_large_binary(stored)


def _check_labels(file: Path, first_row: int, labels: pa.Array, wanted: Wanted) -> None:
    for row, label in enumerate(labels.to_pylist(), first_row):
        if label is None:
            raise DataError(f"{file}: row {row} has no label; leave the row out or give it one")
        if not 0 <= label < wanted.num_classes:
            raise DataError(f"{file}: row {row} has label {label}; {wanted.labels}")


def _decode(file: Path, first_row: int, encoded: pa.Array, pixels: np.ndarray, wanted: pictures.Wanted) -> None:
    """Fill uint8 [rows, image_size, image_size, 3]."""
    rows = encoded.to_pylist()
    pictures.decode_all(pixels, lambda row: _bytes_of(file, first_row + row, rows[row]), wanted)


def _bytes_of(file: Path, row: int, picture: dict[str, bytes | None] | None) -> tuple[str, bytes]:
    """Where a picture is, and its bytes."""
    where, encoded = f"{file}: row {row}", (picture or {}).get("bytes")
    if encoded is None:
        raise DataError(f"{where} has no picture; leave the row out, or store its bytes and not its path")
    return where, encoded
