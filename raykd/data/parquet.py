"""Images and labels out of Parquet files in the layout of the Hugging Face hub.

    img or image: struct<bytes: binary, path: string>     the encoded picture, PNG or JPEG
    label: int64                                          0 .. num_classes - 1

Every row is checked: a picture that cannot be decoded or has another size stops the load with its row.
"""

import hashlib
import io
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image, UnidentifiedImageError

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
_LABEL_COLUMN = "label"
_WANTED = "'img' or 'image': struct<bytes: binary, path: string>, and 'label': int64"
_ROWS_AT_A_TIME = 1024  # about 2 MB of encoded pictures
_AGAIN = "copy or download it again"


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


def read(files: tuple[Path, ...], image_size: int, num_classes: int) -> Split:
    """All rows of files, in order: images [N, 3, image_size, image_size] and labels.

    Raises: DataError, naming file, row (from 0) and remedy, when anything is not as the layout promises.
    """
    images, labels = [], []
    for file in files:
        row = 0
        for pictures, numbers in _record_batches(file):
            _check_labels(file, row, numbers, num_classes)
            labels.append(numbers.to_numpy().astype(np.int64))
            images.append(_decode_all(file, row, pictures, image_size))
            row += len(numbers)
        if not row:
            raise DataError(f"{file}: has 0 rows; {_AGAIN}")
    pixels = torch.from_numpy(np.concatenate(images)).permute(0, 3, 1, 2)  # channels-last strides
    return Split(pixels, torch.from_numpy(np.concatenate(labels)))


def _check_complete(files: tuple[Path, ...]) -> None:
    numbered = re.search(r"-of-(\d+)\.parquet$", files[0].name)
    if numbered and len(files) != int(numbered[1]):
        raise DataError(
            f"{files[0]}: by its name one of {int(numbered[1])} files, but {len(files)} are there; "
            "keep exactly those that belong together"
        )


def _record_batches(file: Path) -> Iterator[tuple[pa.Array, pa.Array]]:
    """(pictures, labels) of some rows at a time."""
    try:
        with pq.ParquetFile(file) as stored:
            image_column = _check_schema(file, stored.schema_arrow)
            columns = [image_column, _LABEL_COLUMN]
            for rows in stored.iter_batches(_ROWS_AT_A_TIME, columns=columns):
                yield rows.column(image_column), rows.column(_LABEL_COLUMN)
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{file}: cut short or no Parquet file ({reason}); {_AGAIN}") from error


def _check_schema(file: Path, schema: pa.Schema) -> str:
    """The name of the column with the pictures."""
    for name in _IMAGE_COLUMNS:
        if name in schema.names and _LABEL_COLUMN in schema.names:
            kind = schema.field(name).type
            if _holds_bytes(kind) and pa.types.is_integer(schema.field(_LABEL_COLUMN).type):
                return name
    found = ", ".join(f"'{field.name}': {field.type}" for field in schema) or "none"
    raise DataError(f"{file}: has the columns {found}; wanted {_WANTED}")


def _holds_bytes(kind: pa.DataType) -> bool:
    if not isinstance(kind, pa.StructType) or kind.get_field_index("bytes") < 0:
        return False
    stored = kind.field("bytes").type
    return pa.types.is_binary(stored) or pa.types.is_large_binary(stored)


def _check_labels(file: Path, first_row: int, labels: pa.Array, num_classes: int) -> None:
    for row, label in enumerate(labels.to_pylist(), first_row):
        if label is None:
            raise DataError(f"{file}: row {row} has no label; leave the row out or give it one")
        if not 0 <= label < num_classes:
            raise DataError(
                f"{file}: row {row} has label {label}; CIFAR-10's go from 0 to {num_classes - 1}"
                " (CIFAR-100 is another dataset)"
            )


def _decode_all(file: Path, first_row: int, pictures: pa.Array, image_size: int) -> np.ndarray:
    """uint8 [rows, image_size, image_size, 3]."""
    pixels = np.empty((len(pictures), image_size, image_size, 3), dtype=np.uint8)
    for row, picture in enumerate(pictures.to_pylist()):
        where = f"{file}: row {first_row + row}"
        if picture is None or picture["bytes"] is None:
            raise DataError(f"{where} has no picture; leave the row out, or store its bytes and not its path")
        pixels[row] = _decode(where, picture["bytes"], image_size)
    return pixels


def _decode(where: str, encoded: bytes, image_size: int) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(encoded), formats=("PNG", "JPEG")) as picture:
            width, height = picture.size  # known before the pixels: a huge picture costs nothing
            if (width, height) == (image_size, image_size):
                return np.asarray(picture.convert("RGB"))
    except UnidentifiedImageError as error:
        raise DataError(f"{where} is no PNG or JPEG; store one of these") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{where} is a PNG or JPEG that cannot be decoded ({error}); {_AGAIN}") from error
    raise DataError(
        f"{where} is {width}x{height} pixels; CIFAR-10's are {image_size}x{image_size}: "
        "resize the pictures before storing them"
    )
