"""The Parquet files of a split: the Hub's layouts are found; incomplete and ambiguous files are refused."""

import os
from pathlib import Path

import pytest

from raykd.data import parquet_folder
from raykd.errors import DataError

HASH, OTHER_HASH = "b42a6d1f21f14bd7", "77aa6d1f21f14bd7"


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


@pytest.mark.parametrize(
    ("train", "test"),
    [
        (["train.parquet"], ["test.parquet"]),
        (["data/train-00000-of-00001.parquet"], ["data/test-00000-of-00001.parquet"]),
        (
            [f"data/train-0000{row}-of-00003-{HASH}.parquet" for row in range(3)],
            ["data/test-00000-of-00001-0c1e.parquet"],
        ),
        (["default/train/0000.parquet"], ["default/test/0000.parquet"]),
        (["plain_text/train/0000.parquet", "plain_text/train/0001.parquet"], ["plain_text/test/0000.parquet"]),
        (["full/train-00000-of-00001.parquet"], ["full/test-00000-of-00001.parquet"]),
        ([f"train-{row:05}-of-00012.parquet" for row in range(12)], ["test.parquet"]),
        (["train/cats.parquet", "train/dogs.parquet"], ["test/all.parquet"]),
        (["train/a1b.parquet", "train/a1c.parquet"], ["test/a1d.parquet"]),
        (["train/train-00000-of-00001.parquet"], ["test/test-00000-of-00001.parquet"]),
        ([f"train/part-0000{row}-2f6c9a01-c000.snappy.parquet" for row in range(2)], ["test/0000.parquet"]),
    ],
    ids=lambda names: names[0],
)
def test_layouts_are_found_in_order_and_hidden_files_are_skipped(
    tmp_path: Path, train: list[str], test: list[str]
) -> None:
    touch(tmp_path, *reversed(train), *test, "README.md", ".cache/train.parquet", "images/0.png")
    touch((tmp_path / train[0]).parent, f"._{Path(train[0]).name}", ".0009.parquet")
    files = parquet_folder.find_files(tmp_path)
    assert files == {"train": tuple(tmp_path / name for name in train), "test": tuple(tmp_path / name for name in test)}


def test_only_the_requested_configurations_are_searched(tmp_path: Path) -> None:
    touch(tmp_path, "data/train.parquet", "flowers/train.parquet", "insects/train.parquet")
    assert parquet_folder.find_files(tmp_path, ("data",)) == {"train": (tmp_path / "data/train.parquet",)}
    assert parquet_folder.find_files(tmp_path, ()) == parquet_folder.find_files(tmp_path / "gone") == {}


SHARDS = [f"train-{row:05}-of-00003-{HASH}.parquet" for row in range(3)]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (SHARDS[:1], rf"{SHARDS[0]}: by its name one of 3 files, but there is no {SHARDS[1]}, {SHARDS[2]}; copy or"),
        (SHARDS[1:], rf"by its name one of 3 files, but there is no {SHARDS[0]}; copy or download"),
        (
            ["train-00000-of-90000.parquet"],
            r"there is no train-00001-of-90000\.parquet, .*-00003-of-90000\.parquet, \.\.\.;",
        ),
        (["train-00000-of-99999999999.parquet"], r"by its name one of 99999999999 files"),
        (
            ["train/0000.parquet", "train/0002.parquet"],
            r"by its name one of 3 files, but there is no 0001\.parquet; copy",
        ),
        (["train/0001.parquet"], r"one of 2 files, but there is no 0000\.parquet"),
        (
            [f"train-00000-of-00001-{HASH}.parquet", f"train-00000-of-00001-{OTHER_HASH}.parquet"],
            rf"train-00000-of-00001-{OTHER_HASH}\.parquet and train-00000-of-00001-{HASH}\.parquet are from two",
        ),
        (
            [f"train-00000-of-00002-{HASH}.parquet", f"train-00001-of-00002-{OTHER_HASH}.parquet"],
            r"are from two uploads; keep the files of one",
        ),
        (["train-00000-of-00001.parquet", "train-00001-of-00002.parquet"], r"are from two uploads"),
        (["train-00000-of-00002.parquet", *SHARDS], r"are from two uploads"),
        (["train-0-of-2.parquet", "train-00000-of-2.parquet"], r"are from two uploads"),
        ([*SHARDS, f"train-00001-of-00003-{HASH} (1).parquet"], r"are from two uploads"),
        (
            [f"train/part-0000{row}-{upload}-c000.snappy.parquet" for row in range(2) for upload in ("2f6c", "9a01")],
            r"part-00000-2f6c-c000\.snappy\.parquet and part-00000-9a01-c000\.snappy\.parquet are from two uploads",
        ),
        (["train-00001-of-00001.parquet"], r"one of 1 files, but there is no train-00000-of-00001\.parquet"),
        ([*SHARDS, f"train-00003-of-00003-{HASH}.parquet"], r"train-00003-.*: is beyond the 3 files that the names"),
        (
            ["train/0000.parquet", "train/train-00000-of-00001.parquet"],
            r"does not follow the numbering of .*; keep one",
        ),
        (["train/0000.parquet", "train/more.parquet"], r"more\.parquet does not follow the numbering of 0000\.parquet"),
        (
            ["train.parquet", "train/0000.parquet"],
            r"has 'train' twice, as train/ and as train\.parquet; keep one of them",
        ),
        (["train.parquet", *SHARDS], r"has 'train' twice, as train-\*-of-\*\.parquet and as train\.parquet"),
        (
            ["train.parquet", "data/train-00000-of-00001.parquet"],
            r"has Parquet in several places, train\.parquet, data/train-",
        ),
        (
            ["test.parquet", "data/train.parquet"],
            r"has Parquet in several places, test\.parquet, data/train\.parquet; keep",
        ),
        (
            ["small/train.parquet", "full/train.parquet", "full/test.parquet"],
            r"has 2 configurations, full, small; keep one, or name it .*: data\.name=parquet:PLACE/full",
        ),
        (["train.parquet", "train (1).parquet"], r"train \(1\)\.parquet: a name that is not read; rename it"),
        (["train.parquet", "train_2.parquet"], r"train_2\.parquet: a name that is not read; rename it"),
        (["train-1.parquet", "train-2.parquet"], r"train-1\.parquet: a name that is not read; rename it"),
        (["val_extra.parquet", "train.parquet"], r"val_extra\.parquet: a name that is not read"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_incomplete_and_ambiguous_files_are_refused(tmp_path: Path, names: list[str], message: str) -> None:
    touch(tmp_path, *names)
    with pytest.raises(DataError, match=message) as caught:
        parquet_folder.find_files(tmp_path)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_special_files_are_refused_and_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "train.parquet")
    with pytest.raises(DataError, match=r"train\.parquet: is a FIFO \(a named pipe\), not a file"):
        parquet_folder.find_files(tmp_path)
    (tmp_path / "train.parquet").unlink()
    (tmp_path / "train.parquet").mkdir()
    with pytest.raises(DataError, match=r"train\.parquet: is a folder with the name of a file; rename it"):
        parquet_folder.find_files(tmp_path)
    (tmp_path / "train.parquet").rmdir()
    (tmp_path / "train").mkdir()
    (tmp_path / "train/0000.parquet").symlink_to("gone.parquet")
    with pytest.raises(DataError, match=r"train/0000\.parquet: is a link to gone\.parquet, which cannot be followed"):
        parquet_folder.find_files(tmp_path)
