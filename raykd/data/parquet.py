"""Images and labels in Parquet files, in the layout of the Hugging Face Hub.

    img or image: struct<bytes: binary, path: string>     the encoded image, PNG or JPEG
    label: int64                                          0 .. num_classes - 1; or text

Every row is checked: an image that cannot be decoded, or has a size that is refused, is an error with its row.

The Hub's library writes its types into the schema: a column of labels is a ClassLabel with the names of its classes.
Labels are indices into those names, so files whose names differ must not be read as one data set.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from raykd.data import image_decoding
from raykd.data.image_decoding import TargetSize
from raykd.data.regular_files import REDOWNLOAD
from raykd.data.sources import EncodedImage
from raykd.data.types import Split
from raykd.errors import DataError

_IMAGE_COLUMNS = ("img", "image")
_LABEL_COLUMNS = ("label", "labels")
_ROWS_AT_A_TIME = 1024  # about 2 MB of encoded images
_FEW_ROWS, _FEW_BYTES = 16, 1 << 16  # read at a time where only the first rows are used


@dataclass(frozen=True)
class ExpectedRows:
    """Requirements for the rows of a data set.

    valid_labels: the end of the error for a label outside of 0 .. num_classes - 1. label_column: the column to read,
    because CIFAR-100 has two.
    text_labels: the sorted class names, if labels are text; None if they are integers.
    """

    num_classes: int
    valid_labels: str
    label_column: str = "label"
    text_labels: tuple[str, ...] | None = None


def read(files: Sequence[Path], expected: ExpectedRows, target: TargetSize) -> Split:
    """Read all rows of files, in order: images [N, 3, image_size, image_size] and labels.

    Raises DataError, with file, row (from 0) and remedy, if a row is not as expected.
    """
    size = target.image_size
    counts = [num_rows(file) for file in files]
    pixels, labels = np.empty((sum(counts), size, size, 3), dtype=np.uint8), np.empty(sum(counts), dtype=np.int64)
    file_start, maxima = 0, []
    for file, count in zip(files, counts, strict=True):
        row = 0
        for encoded, stored_labels in _record_batches(file, expected.label_column, expected.text_labels is not None):
            batch = slice(file_start + row, file_start + row + len(stored_labels))
            labels[batch] = _label_indices(file, row, stored_labels, expected)
            maxima += _decode(file, row, encoded, pixels[batch], target)
            row += len(stored_labels)
        file_start += count
    image_decoding.require_full_range(maxima)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)  # channels-last strides
    return Split(images, torch.from_numpy(labels))


def read_encoded(
    file: Path, expected: ExpectedRows, row_groups: Sequence[int], first_row: int, reads_few: bool = False
) -> Iterator[EncodedImage]:
    """Yield the encoded images of consecutive row groups, the first row of which is row `first_row` of the file.

    reads_few: whether only the first rows are used, so that the rest of a large row group is not read.

    Raises DataError, with file, row (from 0) and remedy, if a row has no image or an unexpected label.
    """
    row = first_row
    for encoded, stored_labels in _record_batches(
        file, expected.label_column, expected.text_labels is not None, row_groups, reads_few
    ):
        labels = _label_indices(file, row, stored_labels, expected)
        for struct, label in zip(encoded, labels.tolist(), strict=True):
            where, content = _image_bytes(file, row, struct.as_py())
            yield EncodedImage(where, content, label)
            row += 1


def row_group_sizes(file: Path) -> list[tuple[int, int]]:
    """Return (number of rows, bytes of all columns before compression) of each row group."""
    with _opened(file) as stored:
        groups = [stored.metadata.row_group(index) for index in range(stored.metadata.num_row_groups)]
        return [(group.num_rows, group.total_byte_size) for group in groups]


def num_rows(file: Path) -> int:
    """Return the number of rows, from the metadata. Raises DataError for 0 rows, or if it is no Parquet file."""
    with _opened(file) as stored:
        count = stored.metadata.num_rows
    if not count:
        raise DataError(f"{file}: has 0 rows; {REDOWNLOAD}")
    return count


def read_first_image(file: Path, label_column: str, has_text_labels: bool) -> tuple[str, bytes]:
    """Return the source of the first row's image, for messages, and its bytes."""
    for encoded, _ in _record_batches(file, label_column, has_text_labels, reads_few=True):
        return _image_bytes(file, 0, encoded[0].as_py())
    raise DataError(f"{file}: has 0 rows; {REDOWNLOAD}")


def read_labels(file: Path, label_column: str, has_text_labels: bool) -> pa.ChunkedArray:
    """Return all labels of a file, in order, as stored. Raises DataError for unexpected columns."""
    with _opened(file) as stored:
        require_columns(file, stored.schema_arrow, label_column, has_text_labels)
        return stored.read(columns=[label_column]).column(label_column)


def read_label_indices(file: Path, expected: ExpectedRows) -> torch.Tensor:
    """Return the labels of a file as class indices, int64 [rows]. Raises what `read` raises for labels and columns."""
    labels = read_labels(file, expected.label_column, expected.text_labels is not None)
    return torch.from_numpy(_label_indices(file, 0, labels, expected))


def read_schema(file: Path) -> pa.Schema:
    """Return the columns of a file with their metadata. Raises DataError if two have one name."""
    with _opened(file) as stored:
        schema = stored.schema_arrow
    if duplicate := next((name for name in schema.names if schema.names.count(name) > 1), None):
        raise DataError(f"{file}: has two columns called '{duplicate}'; rename or remove one of them")
    return schema


def find_label_column(file: Path, schema: pa.Schema) -> str:
    """Return the column of labels: `label`, else the only one among `labels` and the ClassLabels.

    Raises DataError if there are several. If there is none, `label` is returned, and `require_columns` reports it.
    """
    if _LABEL_COLUMNS[0] in schema.names:
        return _LABEL_COLUMNS[0]
    columns = [name for name in schema.names if name in _LABEL_COLUMNS or class_names(schema, name) is not None]
    if len(columns) > 1:
        quoted = ", ".join(f"'{name}'" for name in columns)
        raise DataError(
            f"{file}: has several columns of labels, {quoted}; rename the one to learn to '{_LABEL_COLUMNS[0]}'"
        )
    return columns[0] if columns else _LABEL_COLUMNS[0]


def require_columns(file: Path, schema: pa.Schema, label_column: str, has_text_labels: bool) -> str:
    """Return the name of the column of images. Raises DataError if it, or the column of labels, is missing."""
    for name in _IMAGE_COLUMNS:
        if name in schema.names and label_column in schema.names:
            label = schema.field(label_column).type
            if _holds_bytes(schema.field(name).type) and (
                is_text(label) if has_text_labels else pa.types.is_integer(label)
            ):
                return name
    columns = ", ".join(f"'{field.name}': {field.type}" for field in schema) or "none"
    label = "string" if has_text_labels else "int64"
    expected = f"'img' or 'image': struct<bytes: binary, path: string>, and '{label_column}': {label}"
    raise DataError(f"{file}: has the columns {columns}; requires {expected}{_column_remedy(schema, label_column)}")


def is_text(kind: pa.DataType) -> bool:
    """Return whether labels of this type are text, with or without a dictionary."""
    kind = kind.value_type if isinstance(kind, pa.DictionaryType) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def class_names(schema: pa.Schema, column: str) -> tuple[str, ...] | None:
    """Return the names of a ClassLabel from the Hub's metadata; None without one."""
    try:
        names = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][column]["names"]
    except (KeyError, ValueError, TypeError, RecursionError):
        return None
    return tuple(str(name) for name in names) if isinstance(names, list) else None


def require_same_class_names(files: Sequence[Path], schemas: Sequence[pa.Schema], column: str) -> None:
    """Raise DataError if a label stands for another class in one of the files than in the first."""
    first = class_names(schemas[0], column)
    for file, schema in zip(files, schemas, strict=True):
        names = class_names(schema, column)
        if names == first:
            continue
        if names is None or first is None:
            with_names, without = (files[0], file) if first else (file, files[0])
            difference = f"{with_names} names the classes of '{column}' in its metadata, and {without} does not"
        elif len(names) != len(first):
            difference = f"{file} has {len(names)} classes in its metadata, and {files[0]} has {len(first)}"
        else:
            label = next(i for i, pair in enumerate(zip(names, first, strict=True)) if pair[0] != pair[1])
            difference = f"label {label} is '{names[label]}' in {file}, and '{first[label]}' in {files[0]}"
        raise DataError(f"{difference}; write all files with the same ClassLabel")


def require_published_labels(file: Path, schema: pa.Schema, column: str, published: Sequence[str]) -> None:
    """Raise DataError if the metadata assigns one of the `published` class names to another label."""
    for label, name in enumerate(class_names(schema, column) or ()):
        if name in published and published.index(name) != label:
            raise DataError(
                f"{file}: label {label} is '{name}', which is number {published.index(name)} of this data set; "
                "number the labels as published, or read the files as parquet:PLACE"
            )


@contextmanager
def _opened(file: Path, reads_few: bool = False) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file. Raises DataError if it is no Parquet file, or if the parts that are read are damaged."""
    buffered = {"buffer_size": _FEW_BYTES, "pre_buffer": False} if reads_few else {}
    try:
        with pq.ParquetFile(file, **buffered) as stored:
            yield stored
    except MemoryError:  # pyarrow's MemoryError is an ArrowException too
        raise
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        remedy = None
        with suppress(OSError), file.open("rb") as stream:
            remedy = image_decoding.describe_other_format(stream.read(64))
        raise DataError(f"{file}: truncated or no Parquet file ({reason}); {remedy or REDOWNLOAD}") from error


def _record_batches(
    file: Path,
    label_column: str,
    has_text_labels: bool,
    row_groups: Sequence[int] | None = None,
    reads_few: bool = False,
) -> Iterator[tuple[pa.Array, pa.Array]]:
    """Yield (images, labels) of _ROWS_AT_A_TIME rows. row_groups: the row groups to read; None for all.

    reads_few: as for `read_encoded`.
    """
    with _opened(file, reads_few) as stored:
        image_column = require_columns(file, stored.schema_arrow, label_column, has_text_labels)
        num_rows = _FEW_ROWS if reads_few else _ROWS_AT_A_TIME
        for batch in stored.iter_batches(num_rows, row_groups, columns=[image_column, label_column]):
            yield batch.column(image_column), batch.column(label_column)


def _column_remedy(schema: pa.Schema, label_column: str) -> str:
    """Return the remedy for columns that are missing, or of a type that is not read."""
    kind = schema.field(label_column).type if label_column in schema.names else None
    if kind is None:
        return f"; rename the column with the labels to '{label_column}'"
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return f"; give each image one label, not a list: '{label_column}' must be numbers from 0"
    if not (pa.types.is_integer(kind) or is_text(kind)):
        return f"; cast '{label_column}' to integers from 0"
    image_column = next((name for name in _IMAGE_COLUMNS if name in schema.names), None)
    if image_column is None:
        return f"; rename the column with the images to '{_IMAGE_COLUMNS[0]}'"
    if not _holds_bytes(schema.field(image_column).type):
        return f"; store in '{image_column}' the bytes of each PNG or JPEG, as datasets.Image() does"
    return ""


def _holds_bytes(kind: pa.DataType) -> bool:
    if not isinstance(kind, pa.StructType) or kind.get_field_index("bytes") < 0:
        return False
    stored = kind.field("bytes").type
    return pa.types.is_binary(stored) or pa.types.is_large_binary(stored)


def _label_indices(
    file: Path, first_row: int, labels: pa.Array | pa.ChunkedArray, expected: ExpectedRows
) -> np.ndarray:
    """Return the labels as class indices, int64 [rows]. Raises DataError for a missing or unknown label."""
    names = expected.text_labels
    indices = range(expected.num_classes) if names is None else {name: i for i, name in enumerate(names)}
    values = labels.to_pylist()
    for row, label in enumerate(values, first_row):
        if label is None:
            raise DataError(f"{file}: row {row} has no label; leave the row out or give it one")
        if label not in indices:
            hint = "; the Hub marks images without a label by -1" if label == -1 else ""
            raise DataError(f"{file}: row {row} has label {label}; {expected.valid_labels}{hint}")
    return np.array([indices[label] for label in values], dtype=np.int64)


def _decode(
    file: Path, first_row: int, encoded: pa.Array, pixels: np.ndarray, target: TargetSize
) -> list[tuple[str, int]]:
    """Fill uint8 [rows, image_size, image_size, 3] and return what `image_decoding.decode_all` returns."""
    structs = encoded.to_pylist()
    return image_decoding.decode_all(pixels, lambda i: _image_bytes(file, first_row + i, structs[i]), target)


def _image_bytes(file: Path, row: int, struct: dict[str, bytes | None] | None) -> tuple[str, bytes]:
    """Return the source of an image, for messages, and its bytes."""
    where, encoded = f"{file}: row {row}", (struct or {}).get("bytes")
    if encoded is None:
        raise DataError(f"{where} has no image; leave the row out, or store its bytes and not its path")
    return where, encoded
