"""Images and labels out of Parquet files in the layout of the Hugging Face hub.

    img or image: struct<bytes: binary, path: string>     the encoded picture, PNG or JPEG
    label: int64                                          0 .. num_classes - 1

Every row is checked: a picture that cannot be decoded, or has a size that is refused, stops the load with its row.
Which files these are: parquet_files.py. Which column has the labels, and the classes' names: parquet_labels.py.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from raykd.data import pictures
from raykd.data.plain_files import AGAIN
from raykd.data.types import Split
from raykd.errors import DataError

_IMAGE_COLUMNS = ("img", "image")
_ROWS_AT_A_TIME = 1024  # about 2 MB of encoded pictures


@dataclass(frozen=True)
class Wanted:
    """What the rows of a dataset must be.

    labels: what to say of a label that is none of `num_classes`. label_column: cifar100 has two. texts: where the
    labels are text, the classes' names in order.
    """

    pictures: pictures.Wanted
    num_classes: int
    labels: str
    label_column: str = "label"
    texts: tuple[str, ...] | None = None


def hashes(files: Sequence[Path]) -> list[bytes]:
    """SHA-256 of the bytes of each file of one part. Raises: DataError where two are equal, or one cannot be read."""
    found: dict[bytes, Path] = {}
    for file in files:
        try:
            with file.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").digest()
        except OSError as error:
            raise DataError(f"{file}: cannot be read ({error.strerror}); {AGAIN}") from error
        if digest in found:
            raise DataError(
                f"{file}: has the same content as {found[digest].name}; its images would count twice: remove one"
            )
        found[digest] = file
    return list(found)


def identity(train_files: tuple[Path, ...], test_files: tuple[Path, ...]) -> str:
    """sha256 over the files' bytes and which part they belong to; names and folders do not count.

    Raises: DataError where two files of one part are equal.
    """
    return identity_of(hashes(train_files), hashes(test_files))


def identity_of(train_hashes: Sequence[bytes], test_hashes: Sequence[bytes]) -> str:
    """As `identity`, from the files' hashes."""
    digest = hashlib.sha256(b"parquet")
    for part, found in ((b"train", train_hashes), (b"test", test_hashes)):
        for file_hash in found:
            digest.update(part + file_hash)
    return digest.hexdigest()


def read(files: tuple[Path, ...], wanted: Wanted) -> Split:
    """All rows of files, in order: images [N, 3, image_size, image_size] and labels.

    Raises: DataError, naming file, row (from 0) and remedy, when anything is not as the layout promises.
    """
    size = wanted.pictures.image_size
    counts = [num_rows(file) for file in files]
    pixels, labels = np.empty((sum(counts), size, size, 3), dtype=np.uint8), np.empty(sum(counts), dtype=np.int64)
    first, deep = 0, []
    for file, count in zip(files, counts, strict=True):
        row = 0
        for encoded, found in _record_batches(file, wanted.label_column, wanted.texts is not None):
            here = slice(first + row, first + row + len(found))
            labels[here] = _numbers(file, row, found, wanted)
            deep += _decode(file, row, encoded, pixels[here], wanted.pictures)
            row += len(found)
        first += count
    pictures.require_full_range(deep)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)  # channels-last strides
    return Split(images, torch.from_numpy(labels))


def num_rows(file: Path) -> int:
    """Of a file, without reading them. Raises: DataError for a file without any, or that is no Parquet."""
    with opened(file) as stored:
        count = stored.metadata.num_rows
    if not count:
        raise DataError(f"{file}: has 0 rows; {AGAIN}")
    return count


def first_picture(file: Path, label_column: str, text_labels: bool) -> tuple[str, bytes]:
    """Where the first row's picture is, and its bytes."""
    for encoded, _ in _record_batches(file, label_column, text_labels):
        return _bytes_of(file, 0, encoded[0].as_py())
    raise DataError(f"{file}: has 0 rows; {AGAIN}")


def labels_of(file: Path, label_column: str, text_labels: bool) -> pa.ChunkedArray:
    """All labels of a file, in order, as they are. Raises: DataError for another layout."""
    with opened(file) as stored:
        image_column(file, stored.schema_arrow, label_column, text_labels)
        return stored.read(columns=[label_column]).column(label_column)


@contextmanager
def opened(file: Path) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file. Raises: DataError where it is none, or damaged where it is read."""
    try:
        with pq.ParquetFile(file) as stored:
            yield stored
    except MemoryError:  # pyarrow's own is an ArrowException too
        raise
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        what = None
        with suppress(OSError), file.open("rb") as stream:
            what = pictures.foreign(stream.read(64))
        raise DataError(f"{file}: cut short or no Parquet file ({reason}); {what or AGAIN}") from error


def is_text(kind: pa.DataType) -> bool:
    """Whether labels of this type are text, in a dictionary or not."""
    kind = kind.value_type if isinstance(kind, pa.DictionaryType) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _record_batches(file: Path, label_column: str, text_labels: bool) -> Iterator[tuple[pa.Array, pa.Array]]:
    """(pictures, labels) of some rows at a time."""
    with opened(file) as stored:
        pictures_in = image_column(file, stored.schema_arrow, label_column, text_labels)
        for rows in stored.iter_batches(_ROWS_AT_A_TIME, columns=[pictures_in, label_column]):
            yield rows.column(pictures_in), rows.column(label_column)


def image_column(file: Path, schema: pa.Schema, label_column: str, text_labels: bool) -> str:
    """The name of the column with the pictures. Raises: DataError where it, or the labels, are not as wanted."""
    for name in _IMAGE_COLUMNS:
        if name in schema.names and label_column in schema.names:
            label = schema.field(label_column).type
            if _holds_bytes(schema.field(name).type) and (
                is_text(label) if text_labels else pa.types.is_integer(label)
            ):
                return name
    found = ", ".join(f"'{field.name}': {field.type}" for field in schema) or "none"
    label = "string" if text_labels else "int64"
    wanted = f"'img' or 'image': struct<bytes: binary, path: string>, and '{label_column}': {label}"
    raise DataError(f"{file}: has the columns {found}; wanted {wanted}{_remedy(schema, label_column)}")


def _remedy(schema: pa.Schema, label_column: str) -> str:
    """Say what to do about a column of labels that is there and not of a type that is read."""
    kind = schema.field(label_column).type if label_column in schema.names else None
    if kind is None:
        return f"; rename the column with the labels to '{label_column}'"
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return f"; give each image one label, not a list: '{label_column}' must be numbers from 0"
    if not (pa.types.is_integer(kind) or is_text(kind)):
        return f"; cast '{label_column}' to whole numbers from 0"
    pictures_in = next((name for name in _IMAGE_COLUMNS if name in schema.names), None)
    if pictures_in is None:
        return f"; rename the column with the pictures to '{_IMAGE_COLUMNS[0]}'"
    if not _holds_bytes(schema.field(pictures_in).type):
        return f"; store in '{pictures_in}' the bytes of each PNG or JPEG, as datasets.Image() does"
    return ""


def _holds_bytes(kind: pa.DataType) -> bool:
    if not isinstance(kind, pa.StructType) or kind.get_field_index("bytes") < 0:
        return False
    stored = kind.field("bytes").type
    return pa.types.is_binary(stored) or pa.types.is_large_binary(stored)


def _numbers(file: Path, first_row: int, labels: pa.Array, wanted: Wanted) -> np.ndarray:
    """Return labels as classes' numbers, int64 [rows]. Raises: DataError for one that is missing or no class."""
    known = range(wanted.num_classes) if wanted.texts is None else {name: row for row, name in enumerate(wanted.texts)}
    found = labels.to_pylist()
    for row, label in enumerate(found, first_row):
        if label is None:
            raise DataError(f"{file}: row {row} has no label; leave the row out or give it one")
        if label not in known:
            hint = "; the hub marks images without a label by -1" if label == -1 else ""
            raise DataError(f"{file}: row {row} has label {label}; {wanted.labels}{hint}")
    return np.array([known[label] for label in found], dtype=np.int64)


def _decode(
    file: Path, first_row: int, encoded: pa.Array, pixels: np.ndarray, wanted: pictures.Wanted
) -> list[tuple[str, int]]:
    """Fill uint8 [rows, image_size, image_size, 3]; what `decode_all` returns."""
    rows = encoded.to_pylist()
    return pictures.decode_all(pixels, lambda row: _bytes_of(file, first_row + row, rows[row]), wanted)


def _bytes_of(file: Path, row: int, picture: dict[str, bytes | None] | None) -> tuple[str, bytes]:
    """Where a picture is, and its bytes."""
    where, encoded = f"{file}: row {row}", (picture or {}).get("bytes")
    if encoded is None:
        raise DataError(f"{where} has no picture; leave the row out, or store its bytes and not its path")
    return where, encoded
