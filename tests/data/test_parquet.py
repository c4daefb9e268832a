"""Parquet in the Hub's layout: reading, and the error for each kind of bad file."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from small_cifar10 import png, random_pixels, write_parquet

from raykd.data import image_decoding, parquet, parquet_folder
from raykd.data.regular_files import require_regular_file
from raykd.data.sources import content_identity, hash_files
from raykd.data.types import Split
from raykd.errors import DataError

IMAGES = [png(image) for image in random_pixels(20)]
LABELS = [*range(10)] * 2


def read(*files: Path) -> Split:
    target = image_decoding.TargetSize(32, "CIFAR-10's are 32x32")
    return parquet.read(files, parquet.ExpectedRows(10, "CIFAR-10's go from 0 to 9"), target)


@pytest.mark.parametrize("image_column", ["img", "image"])
def test_pixels_and_labels_are_read_in_order(tmp_path: Path, image_column: str) -> None:
    split = read(write_parquet(tmp_path / "train.parquet", IMAGES, LABELS, image_column))
    assert split.images.equal(torch.from_numpy(random_pixels(20)).permute(0, 3, 1, 2))
    assert split.labels.tolist() == LABELS
    assert split.images.is_contiguous(memory_format=torch.channels_last)


def test_gray_images_become_three_equal_channels(tmp_path: Path) -> None:
    gray = random_pixels(1)[0, :, :, 0]
    split = read(write_parquet(tmp_path / "train.parquet", [png(gray)], [0]))
    assert split.images[0].equal(torch.from_numpy(np.stack([gray] * 3)))


@pytest.mark.parametrize(
    "names",
    [
        ["train.parquet"],
        ["train-00000-of-00001.parquet"],
        ["plain_text/train-00000-of-00001.parquet"],
        ["data/train-00000-of-00002-abc.parquet", "data/train-00001-of-00002-abc.parquet"],
        ["train/0000.parquet", "train/0001.parquet"],
        ["plain_text/train/0000.parquet"],
    ],
)
def test_layouts_of_the_hub_are_found_in_order(tmp_path: Path, names: list[str]) -> None:
    for name in reversed(names):
        write_parquet(tmp_path / name, IMAGES[:1], [0])
    assert parquet_folder.find_files(tmp_path) == {"train": tuple(tmp_path / name for name in names)}


def test_several_files_form_one_split(tmp_path: Path) -> None:
    first = write_parquet(tmp_path / "0.parquet", IMAGES[:5], LABELS[:5])
    second = write_parquet(tmp_path / "1.parquet", IMAGES[5:], LABELS[5:])
    assert read(first, second).labels.tolist() == LABELS


def test_missing_numbered_file_is_detected(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train-00000-of-00003.parquet", IMAGES, LABELS)
    with pytest.raises(DataError, match=r"train-00000-of-00003\.parquet: by its name one of 3 files, .* train-00001-"):
        parquet_folder.find_files(tmp_path)


def test_identity_depends_on_bytes_and_split_but_not_on_names(tmp_path: Path) -> None:
    one = write_parquet(tmp_path / "one.parquet", IMAGES, LABELS)
    same = write_parquet(tmp_path / "elsewhere" / "same.parquet", IMAGES, LABELS)
    other = write_parquet(tmp_path / "other.parquet", IMAGES, LABELS[::-1])

    def identity(train: Sequence[Path], test: Sequence[Path]) -> str:
        digests = [hash_files([require_regular_file(file) for file in files]) for files in (train, test)]
        return content_identity("parquet", *digests)

    assert identity([one], [other]) == identity([same], [other])
    identities = {identity([one], [other]), identity([other], [one]), identity([one, other], [])}
    assert len(identities) == 3


def jpeg_of_size(width: int, height: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, height)).save(stream, "JPEG")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("row", "image", "label", "message"),
    [
        (3, IMAGES[0], 10, "row 3 has label 10; CIFAR-10's go from 0 to 9"),
        (0, IMAGES[0], -1, "row 0 has label -1"),
        (19, IMAGES[0], None, "row 19 has no label"),
        (2, None, 0, "row 2 has no image"),
        (8, jpeg_of_size(28, 32), 0, "row 8 is 28x32 pixels; CIFAR-10's are 32x32"),
        (8, b"no image", 0, "row 8 is no PNG or JPEG"),
        (8, b"", 0, "row 8 is no PNG or JPEG"),
        (8, IMAGES[0][:600], 0, "row 8 is a PNG or JPEG that cannot be decoded"),
        (8, jpeg_of_size(32, 32)[:400], 0, "row 8 is a PNG or JPEG that cannot be decoded|row 8 is no PNG or JPEG"),
    ],
)
def test_error_names_the_bad_row(
    tmp_path: Path, row: int, image: bytes | None, label: int | None, message: str
) -> None:
    images, labels = list(IMAGES), list(LABELS)
    images[row], labels[row] = image, label
    path = write_parquet(tmp_path / "train.parquet", images, labels)
    with pytest.raises(DataError, match=f"train.parquet: ({message})") as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_rows_are_counted_across_record_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "_ROWS_AT_A_TIME", 3)
    path = write_parquet(tmp_path / "train.parquet", [*IMAGES[:19], b"no image"], LABELS)
    with pytest.raises(DataError, match="row 19 is no PNG or JPEG"):
        read(path)


def test_null_struct_is_a_missing_image(tmp_path: Path) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"img": pa.array([{"bytes": IMAGES[0]}, None], kind), "label": [0, 1]})
    pq.write_table(table, tmp_path / "train.parquet")
    with pytest.raises(DataError, match=r"train\.parquet: row 1 has no image"):
        read(tmp_path / "train.parquet")


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.99])
def test_truncated_file_is_refused(tmp_path: Path, kept: float) -> None:
    path = write_parquet(tmp_path / "train.parquet", IMAGES, LABELS)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(DataError, match=r"train\.parquet: truncated or no Parquet file"):
        read(path)


def test_damaged_pages_are_refused(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "train.parquet", IMAGES, LABELS)
    content = bytearray(path.read_bytes())
    content[4:40] = bytes(36)  # the first page's header; the footer stays whole
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"train\.parquet: truncated or no Parquet file"):
        read(path)


@pytest.mark.parametrize(
    "table",
    [
        pa.table({"img": [b"bytes without a struct"], "label": [0]}),
        pa.table({"img": [{"bytes": "text", "path": ""}], "label": [0]}),
        pa.table({"img": [{"path": "0.png"}], "label": [0]}),
        pa.table({"img": [{"bytes": IMAGES[0], "path": ""}], "label": ["cat"]}),
        pa.table({"img": [{"bytes": IMAGES[0], "path": ""}], "fine_label": [0]}),
        pa.table({"label": [0]}),
    ],
    ids=["bare bytes", "text", "path alone", "label as text", "no label", "no image"],
)
def test_error_for_a_wrong_schema_lists_actual_and_required_columns(tmp_path: Path, table: pa.Table) -> None:
    pq.write_table(table, tmp_path / "train.parquet")
    with pytest.raises(
        DataError, match=r"train\.parquet: has the columns '.*requires 'img' or 'image': struct"
    ) as caught:
        read(tmp_path / "train.parquet")
    assert all(f"'{name}'" in str(caught.value) for name in table.column_names)


def test_file_without_rows_is_refused(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "train.parquet", [], [])
    with pytest.raises(DataError, match=r"train\.parquet: has 0 rows"):
        read(path)
