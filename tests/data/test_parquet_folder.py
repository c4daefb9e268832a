"""Custom Parquet: sizes, shards, names of classes, and refusals."""

import io
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from small_images import encoded, write_parquet

from raykd.data import image_decoding, parquet
from raykd.data.load import load_dataset
from raykd.errors import DataError

NAMES = ("oak", "ash", "elm")
LABELS = [0, 1, 2, 1, 0, 2, 2, 1]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Write two files of train with 8 rows each, and one of test with 3."""
    place = tmp_path / "trees"
    for shard in range(2):
        images = [encoded(10 * shard + row) for row in range(8)]
        write_parquet(place / "data" / f"train-0000{shard}-of-00002.parquet", images, {"label": LABELS}, NAMES)
    images = [encoded(100 + row) for row in range(3)]
    write_parquet(place / "data" / "test-00000-of-00001.parquet", images, {"label": [0, 1, 2]}, NAMES)
    return place


def test_shards_form_one_split_and_metadata_names_the_classes(place: Path) -> None:
    data = load_dataset("parquet:trees", place.parent)
    assert data.train.labels.tolist() == LABELS + LABELS
    assert (data.class_names, data.image_size, len(data.test)) == (NAMES, 24, 3)
    assert data.name == "parquet:trees" and data.identity == load_dataset(f"parquet:{place}", None).identity


def test_without_metadata_classes_are_named_by_their_numbers(tmp_path: Path) -> None:
    for part in ("train", "test"):
        write_parquet(tmp_path / f"{part}.parquet", [encoded(row) for row in range(8)], {"label": LABELS})
    assert load_dataset("parquet:.", tmp_path).class_names == ("0", "1", "2")


def test_another_size_resizes_and_changes_the_identity(place: Path) -> None:
    small, whole = load_dataset("parquet:trees", place.parent, 12), load_dataset("parquet:trees", place.parent)
    assert small.train.images.shape == (16, 3, 12, 12) and small.identity != whole.identity


@pytest.mark.nightly
def test_real_cifar10_as_custom_parquet_has_the_same_pixels(tmp_path: Path) -> None:
    folder = Path(os.environ.get("RAYKD_DATA") or "nowhere") / "cifar10"
    if not (folder / "test.parquet").is_file():
        pytest.skip("RAYKD_DATA names no folder with cifar10/test.parquet")
    place = tmp_path / "mine"
    place.mkdir()
    for part in ("train", "test"):
        (place / f"{part}.parquet").symlink_to(folder / "test.parquet")
    data = load_dataset("parquet:mine", tmp_path)
    target = image_decoding.TargetSize(32, "no other size")
    rows = parquet.ExpectedRows(10, "0 to 9")
    assert data.train.images.equal(parquet.read((folder / "test.parquet",), rows, target).images)
    assert (data.num_classes, data.train.labels.bincount().tolist()) == (10, [1_000] * 10)


@pytest.mark.parametrize(
    ("part", "labels", "message"),
    [
        (
            "train",
            [0, 1, 3, 1, 0, 3, 3, 1],
            r"no training image has label 2, of 4 classes; number the existing",
        ),
        ("test", [0, 1, 3, 1, 0, 2, 2, 1], r"test\.parquet: row 2 has label 3; train's are 0 to 2: leave the row out"),
        ("test", [0, -1, 2, 1, 0, 2, 2, 1], r"test\.parquet: row 1 has label -1; train's are 0 to 2"),
        ("train", [0, 1, -7, 1, 0, 2, 2, 1], r"train\.parquet: row 2 has label -7; train's are 0 to 2"),
        ("train", [0] * 8, r"train\.parquet: its labels name 1 class, and at least two are required"),
    ],
)
def test_error_names_impossible_labels(tmp_path: Path, part: str, labels: list[int], message: str) -> None:
    for name in ("train", "test"):
        split_labels = labels if name == part else LABELS
        write_parquet(tmp_path / f"{name}.parquet", [encoded(row) for row in range(8)], {"label": split_labels})
    with pytest.raises(DataError, match=message):
        load_dataset("parquet:.", tmp_path)


def test_class_of_the_metadata_without_images_is_refused(tmp_path: Path) -> None:
    names = (*NAMES, "yew")
    for name in ("train", "test"):
        write_parquet(tmp_path / f"{name}.parquet", [encoded(row) for row in range(8)], {"label": LABELS}, names)
    with pytest.raises(DataError, match=r"no training image has label 3 \('yew'\), of 4 classes"):
        load_dataset("parquet:.", tmp_path)


def test_error_for_another_size_names_the_row(tmp_path: Path) -> None:
    images = [encoded(row) for row in range(8)]
    write_parquet(tmp_path / "test.parquet", images, {"label": LABELS})
    images[5] = encoded(5, (24, 30))
    write_parquet(tmp_path / "train.parquet", images, {"label": LABELS})
    with pytest.raises(DataError, match=r"row 5 is 24x30 pixels; the first is 24x24.*data\.image_size=24"):
        load_dataset("parquet:.", tmp_path)
    assert load_dataset("parquet:.", tmp_path, 24).train.images.dtype == torch.uint8


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (["train-00000-of-00002", "train-00001-of-00002"], "trees: has no Parquet of train"),
        (["test-00000-of-00001"], "trees: has no Parquet of test; requires train.parquet and test.parquet"),
        (["train-00001-of-00002"], "by its name one of 2 files, but there is no train-00001-of-00002.parquet; copy"),
    ],
)
def test_error_names_missing_files(place: Path, missing: list[str], message: str) -> None:
    for name in missing:
        (place / "data" / f"{name}.parquet").unlink()
    with pytest.raises(DataError, match=message):
        load_dataset("parquet:trees", place.parent)


def write_parts(
    place: Path,
    train: pa.Array | list[int],
    test: pa.Array | list[int],
    column: str = "label",
    names: tuple[Sequence[str] | None, Sequence[str] | None] = (None, None),
) -> Path:
    """Write train.parquet and test.parquet with labels of any type. names: of each file's ClassLabel."""
    for seed, (part, labels, called) in enumerate((("train", train, names[0]), ("test", test, names[1]))):
        rows = [{"bytes": encoded(100 * seed + row), "path": None} for row in range(len(labels))]
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        table = pa.table({"image": pa.array(rows, kind), column: labels})
        if called is not None:
            features = {"image": {"_type": "Image"}, column: {"names": list(called), "_type": "ClassLabel"}}
            table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        place.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, place / f"{part}.parquet")
    return place


TEXTS = [NAMES[label] for label in LABELS]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())], ids=str)
def test_text_labels_are_sorted_classes(tmp_path: Path, kind: pa.DataType) -> None:
    write_parts(tmp_path, pa.array(TEXTS).cast(kind), pa.array(["oak", "elm"]).cast(kind))
    data = load_dataset("parquet:.", tmp_path)
    assert data.class_names == ("ash", "elm", "oak")
    assert [data.class_names[label] for label in data.train.labels] == TEXTS
    assert data.test.labels.tolist() == [2, 1]


def test_text_labels_have_the_same_numbers_in_all_files(tmp_path: Path) -> None:
    """Each file has its own dictionary, in the order of the texts' first occurrence."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    for name, texts in {
        "train-00000-of-00002": "bac",
        "train-00001-of-00002": "cab",
        "test-00000-of-00001": "cb",
    }.items():
        rows = pa.array([{"bytes": encoded(ord(text) + 7 * len(name)), "path": name} for text in texts], kind)
        pq.write_table(
            pa.table({"image": rows, "label": pa.array([*texts]).dictionary_encode()}), tmp_path / f"{name}.parquet"
        )
    data = load_dataset("parquet:.", tmp_path)
    assert (data.train.labels.tolist(), data.test.labels.tolist()) == ([1, 0, 2, 2, 0, 1], [2, 1])


@pytest.mark.parametrize("column", ["labels", "species"])
def test_the_only_column_of_class_labels_is_read(tmp_path: Path, column: str) -> None:
    write_parts(tmp_path, LABELS, LABELS[:3], column, (NAMES, NAMES))
    assert load_dataset("parquet:.", tmp_path).class_names == NAMES


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((NAMES, NAMES[::-1]), r"label 0 is 'elm' in .*test\.parquet, and 'oak' in .*train\.parquet; write all files"),
        ((NAMES, (*NAMES, "yew")), r"test\.parquet has 4 classes in its metadata, and .*train\.parquet has 3; write"),
        ((NAMES, None), r"train\.parquet names the classes of 'label' in its metadata, and .*test\.parquet does not"),
        ((None, NAMES), r"test\.parquet names the classes of 'label' in its metadata, and .*train\.parquet does not"),
        (
            (("oak", "ash", "oak"), ("oak", "ash", "oak")),
            r"train\.parquet: two of its classes are called 'oak'",
        ),
    ],
)
def test_files_with_different_classes_are_refused(
    tmp_path: Path, names: tuple[Sequence[str] | None, Sequence[str] | None], message: str
) -> None:
    write_parts(tmp_path, LABELS, LABELS, names=names)
    with pytest.raises(DataError, match=message):
        load_dataset("parquet:.", tmp_path)


def test_shards_with_different_classes_are_refused(place: Path) -> None:
    images = [encoded(500 + row) for row in range(8)]
    write_parquet(place / "data/train-00001-of-00002.parquet", images, {"label": LABELS}, ("ash", "oak", "elm"))
    with pytest.raises(DataError, match=r"label 0 is 'ash' in .*train-00001-.*, and 'oak' in .*train-00000-"):
        load_dataset("parquet:trees", place.parent)


@pytest.mark.parametrize(
    ("labels", "remedy"),
    [
        (pa.array([float(label) for label in LABELS]), "cast 'label' to integers from 0"),
        (pa.array([label == 1 for label in LABELS]), "cast 'label' to integers from 0"),
        (pa.array([[label] for label in LABELS]), "give each image one label, not a list"),
    ],
    ids=["float", "bool", "list"],
)
def test_error_for_labels_of_another_type_has_the_remedy(tmp_path: Path, labels: pa.Array, remedy: str) -> None:
    write_parts(tmp_path, labels, labels)
    with pytest.raises(
        DataError, match=rf"train\.parquet: has the columns .*'label': {str(labels.type)[:4]}.*; {remedy}"
    ):
        load_dataset("parquet:.", tmp_path)


def test_error_without_labels_lists_the_columns(tmp_path: Path) -> None:
    write_parts(tmp_path / "other", LABELS, LABELS, "fine_label")
    with pytest.raises(DataError, match=r"'fine_label': int64; requires .*; rename the column with the labels"):
        load_dataset("parquet:other", tmp_path)
    features = {name: {"names": list(NAMES), "_type": "ClassLabel"} for name in ("fine", "coarse")}
    for part in ("train", "test"):
        table = pq.read_table(tmp_path / "other" / f"{part}.parquet").rename_columns(["image", "fine"])
        table = table.append_column("coarse", table["fine"])
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        pq.write_table(table, tmp_path / "other" / f"{part}.parquet")
    with pytest.raises(DataError, match=r"has several columns of labels, 'fine', 'coarse'; rename the one to learn to"):
        load_dataset("parquet:other", tmp_path)


def test_error_for_an_unknown_text_label_names_the_row(tmp_path: Path) -> None:
    write_parts(tmp_path, pa.array(TEXTS), pa.array(["oak", "yew"]))
    with pytest.raises(DataError, match=r"test\.parquet: row 1 has label yew; train's are ash to oak"):
        load_dataset("parquet:.", tmp_path)
    write_parts(tmp_path, pa.array(TEXTS), LABELS)
    with pytest.raises(DataError, match=r"test\.parquet: has the columns .*'label': int64; requires .*'label': string"):
        load_dataset("parquet:.", tmp_path)


@pytest.mark.parametrize("metadata", [b"{", b"[]", b"[" * 100_000, b'{"info": {"features": []}}', b'{"info": null}'])
def test_unknown_metadata_are_ignored(tmp_path: Path, metadata: bytes) -> None:
    write_parts(tmp_path, LABELS, LABELS)
    for part in ("train", "test"):
        table = pq.read_table(tmp_path / f"{part}.parquet").replace_schema_metadata({"huggingface": metadata})
        pq.write_table(table, tmp_path / f"{part}.parquet")
    assert load_dataset("parquet:.", tmp_path).class_names == ("0", "1", "2")


def test_equal_files_of_a_split_are_refused_and_shared_files_are_noted(place: Path) -> None:
    data = place / "data"
    shutil.copy(data / "train-00000-of-00002.parquet", data / "test-00000-of-00001.parquet")
    (note,) = load_dataset("parquet:trees", place.parent).notes
    assert note.startswith("test-00000-of-00001.parquet of the test split is also trained on")
    shutil.copy(data / "train-00000-of-00002.parquet", data / "train-00001-of-00002.parquet")
    with pytest.raises(DataError, match=r"train-00001-of-00002\.parquet: has the same content as train-00000-of-00002"):
        load_dataset("parquet:trees", place.parent)


def test_published_validation_split_is_the_test_set_without_a_test_split(place: Path) -> None:
    before = load_dataset("parquet:trees", place.parent)
    (place / "data/test-00000-of-00001.parquet").rename(place / "data/validation-00000-of-00001.parquet")
    after = load_dataset("parquet:trees", place.parent)
    assert after.notes == ("'validation' is the test split, because there is no 'test'",)
    assert after.identity == before.identity and not before.notes


def test_error_lists_the_existing_files(tmp_path: Path) -> None:
    write_parquet(tmp_path / "default/partial-train/0000.parquet", [encoded(0)], {"label": [0]})
    message = r"has no Parquet of train; requires .*; there are: default/partial-train/0000\.parquet"
    with pytest.raises(DataError, match=message):
        load_dataset("parquet:.", tmp_path)


def test_git_lfs_pointer_is_recognized(place: Path) -> None:
    (place / "data/test-00000-of-00001.parquet").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:12")
    with pytest.raises(DataError, match=r"test-00000-of-00001\.parquet: .*it is a Git LFS pointer .*git lfs pull"):
        load_dataset("parquet:trees", place.parent)


def test_error_for_12_bits_in_16_names_the_row(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.fromarray(np.full((24, 24), 3_000, dtype=np.uint16)).save(stream, "PNG")
    for part in ("train", "test"):
        images = [encoded(row + 50 * (part == "test")) for row in range(8)]
        write_parquet(tmp_path / f"{part}.parquet", [*images[:3], stream.getvalue(), *images[4:]], {"label": LABELS})
    with pytest.raises(DataError, match=r"train\.parquet: row 3: its values of 16 bits go up to 3,000 at most"):
        load_dataset("parquet:.", tmp_path)
