"""A person's own Parquet: sizes, shards, names of classes, and what is refused."""

import os
from pathlib import Path

import pytest
import torch
from small_pictures import encoded, write_parquet

from raykd.data import parquet, pictures
from raykd.data.dataset import load
from raykd.errors import DataError

NAMES = ("oak", "ash", "elm")
LABELS = [0, 1, 2, 1, 0, 2, 2, 1]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Two files of train with 8 rows each, one of test with 3."""
    place = tmp_path / "trees"
    for shard in range(2):
        pictures = [encoded(10 * shard + row) for row in range(8)]
        write_parquet(place / "data" / f"train-0000{shard}-of-00002.parquet", pictures, {"label": LABELS}, NAMES)
    pictures = [encoded(100 + row) for row in range(3)]
    write_parquet(place / "data" / "test-00000-of-00001.parquet", pictures, {"label": [0, 1, 2]}, NAMES)
    return place


def test_shards_are_one_part_and_classes_have_the_names_of_the_metadata(place: Path) -> None:
    data = load("parquet:trees", place.parent)
    assert data.train.labels.tolist() == LABELS + LABELS
    assert (data.class_names, data.image_size, len(data.test)) == (NAMES, 24, 3)
    assert data.name == "parquet:trees" and data.identity == load(f"parquet:{place}", None).identity


def test_without_metadata_classes_are_called_by_their_numbers(tmp_path: Path) -> None:
    for part in ("train", "test"):
        write_parquet(tmp_path / f"{part}.parquet", [encoded(row) for row in range(8)], {"label": LABELS})
    assert load("parquet:.", tmp_path).class_names == ("0", "1", "2")


def test_a_size_that_is_asked_for_resizes_and_is_another_identity(place: Path) -> None:
    small, whole = load("parquet:trees", place.parent, 12), load("parquet:trees", place.parent)
    assert small.train.images.shape == (16, 3, 12, 12) and small.identity != whole.identity


def test_real_cifar10_read_as_a_persons_own_is_the_same_pixels(tmp_path: Path) -> None:
    folder = Path(os.environ.get("RAYKD_DATA") or "nowhere") / "cifar10"
    if not (folder / "test.parquet").is_file():
        pytest.skip("RAYKD_DATA names no folder with cifar10/test.parquet")
    place = tmp_path / "mine"
    place.mkdir()
    for part in ("train", "test"):
        (place / f"{part}.parquet").symlink_to(folder / "test.parquet")
    data = load("parquet:mine", tmp_path)
    wanted = parquet.Wanted(pictures.Wanted(32, "no other size"), 10, "0 to 9")
    assert data.train.images.equal(parquet.read((folder / "test.parquet",), wanted).images)
    assert (data.num_classes, data.train.labels.bincount().tolist()) == (10, [1_000] * 10)


@pytest.mark.parametrize(
    ("part", "labels", "message"),
    [
        ("train", [0, 1, 3, 1, 0, 3, 3, 1], r"no training image has label 2, of 4 classes; number the classes"),
        ("test", [0, 1, 3, 1, 0, 2, 2, 1], r"test\.parquet: row 2 has label 3; train's are 0 to 2: leave the row out"),
        ("test", [0, -1, 2, 1, 0, 2, 2, 1], r"test\.parquet: row 1 has label -1; train's are 0 to 2"),
        ("train", [0, 1, -7, 1, 0, 2, 2, 1], r"train\.parquet: row 2 has label -7; train's are 0 to 2"),
        ("train", [0] * 8, r"train\.parquet: its labels name 1 classes, and two at least are wanted"),
    ],
)
def test_labels_that_cannot_be_are_named(tmp_path: Path, part: str, labels: list[int], message: str) -> None:
    for name in ("train", "test"):
        given = labels if name == part else LABELS
        write_parquet(tmp_path / f"{name}.parquet", [encoded(row) for row in range(8)], {"label": given})
    with pytest.raises(DataError, match=message):
        load("parquet:.", tmp_path)


def test_a_class_of_the_metadata_without_images_is_named(tmp_path: Path) -> None:
    names = (*NAMES, "yew")
    for name in ("train", "test"):
        write_parquet(tmp_path / f"{name}.parquet", [encoded(row) for row in range(8)], {"label": LABELS}, names)
    with pytest.raises(DataError, match=r"no training image has label 3 \('yew'\), of 4 classes"):
        load("parquet:.", tmp_path)


def test_another_size_in_the_middle_is_named_with_its_row(tmp_path: Path) -> None:
    pictures = [encoded(row) for row in range(8)]
    write_parquet(tmp_path / "test.parquet", pictures, {"label": LABELS})
    pictures[5] = encoded(5, (24, 30))
    write_parquet(tmp_path / "train.parquet", pictures, {"label": LABELS})
    with pytest.raises(DataError, match=r"row 5 is 24x30 pixels; the first is 24x24.*data\.image_size=24"):
        load("parquet:.", tmp_path)
    assert load("parquet:.", tmp_path, 24).train.images.dtype == torch.uint8


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (["train-00000-of-00002", "train-00001-of-00002"], "trees: has no Parquet of train"),
        (["test-00000-of-00001"], "trees: has no Parquet of test; wants train.parquet and test.parquet"),
        (["train-00001-of-00002"], "by its name one of 2 files, but there is no train-00001-of-00002.parquet; copy"),
    ],
)
def test_missing_files_are_named(place: Path, missing: list[str], message: str) -> None:
    for name in missing:
        (place / "data" / f"{name}.parquet").unlink()
    with pytest.raises(DataError, match=message):
        load("parquet:trees", place.parent)
