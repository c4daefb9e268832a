"""Names, folders and sizes of data sets."""

from pathlib import Path

import pytest
import torch

from raykd.data.dataset_names import find_folder, plain_name, without_path
from raykd.data.load import load_dataset
from raykd.data.types import Dataset, Split
from raykd.errors import ConfigError, DataError


def test_data_folder_is_the_option_then_the_environment_then_the_default() -> None:
    assert find_folder("option", {"RAYKD_DATA": "/env"}) == Path("option")
    assert find_folder(None, {"RAYKD_DATA": "/env"}) == Path("/env")
    assert find_folder(None, {"RAYKD_DATA": ""}) == Path("data")
    assert find_folder(None, {}) == Path("data")
    assert find_folder("~/sets", {}) == Path.home() / "sets"


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown dataset name 'cifar-10': .*did you mean 'cifar10'"):
        load_dataset("cifar-10", None)


def test_error_without_a_data_folder_has_the_remedy() -> None:
    with pytest.raises(DataError, match="cifar10 is read from a folder: give --data-dir, or set RAYKD_DATA"):
        load_dataset("cifar10", None)


@pytest.mark.parametrize("size", [16, 8, 4])
def test_smaller_images_are_means_of_blocks(parquet_folder: Path, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raykd.data.load._AVERAGE_CHUNK", 7)
    full, small = load_dataset("cifar10", parquet_folder), load_dataset("cifar10", parquet_folder, image_size=size)
    block = 32 // size
    mean = torch.nn.functional.avg_pool2d(full.train.images.double(), block)
    assert small.train.images.equal((mean + 0.5).floor().to(torch.uint8))
    assert small.image_size == size
    assert small.train.images.is_contiguous(memory_format=torch.channels_last)
    assert small.identity != full.identity


@pytest.mark.parametrize("size", [0, -4, 5, 64])
def test_size_that_does_not_divide_is_refused(parquet_folder: Path, size: int) -> None:
    with pytest.raises(
        ConfigError, match=f"data.image_size = {size}: must divide 32, the pixels per side of the images of cifar10"
    ):
        load_dataset("cifar10", parquet_folder, image_size=size)


def test_description_has_counts_and_the_first_classes() -> None:
    def split(num: int) -> Split:
        return Split(torch.zeros(num, 3, 8, 8, dtype=torch.uint8), torch.zeros(num, dtype=torch.int64))

    mean, names = (0.5, 0.5, 0.5), ("ant", "bee", "cat", "dog\n", "e" * 90, "fly")
    data = Dataset("folder:zoo", split(1_200), split(30), names, mean, mean, "ab", ("'val' is not read",))
    assert data.description(val_images=100) == [
        "folder:zoo: 1,100 train, 100 validation (split from train), 30 test images of 8x8 pixels; "
        f"6 classes: ant, bee, cat, dog, {'e' * 40}, ...",
        "folder:zoo: 'val' is not read",
    ]
    (parts, _) = data.description(100, train_images=1_050)
    assert parts.startswith("folder:zoo: 1,050 of 1,100 train, 100 validation (split from train), 30 test")
    (parts, _) = data.description(100, student_images=20)
    assert parts.startswith("folder:zoo: 1,100 train (students train on 20), 100 validation")
    (parts, _) = data.description(100, train_images=1_050, student_images=20)
    assert parts.startswith("folder:zoo: 1,050 of 1,100 train (students train on 20), 100 validation")
    two = Dataset("folder:zoo", split(20), split(3), names[:2], mean, mean, "ab")
    assert two.description(5)[-1].endswith("2 classes: ant, bee")


def test_split_refuses_other_types_and_shapes() -> None:
    images, labels = torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)
    assert len(Split(images, labels)) == 2
    with pytest.raises(DataError, match="images are"):
        Split(images.float(), labels)
    with pytest.raises(DataError, match="labels are"):
        Split(images, labels[:1])


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("cifar100-coarse", "cifar100-coarse"),
        ("folder:flowers", "folder:flowers"),
        ("folder:/data/mine/flowers/", "folder:flowers"),
        ("parquet:~/flowers", "parquet:flowers"),
        ("parquet:../me/flowers", "parquet:flowers"),
        ("folder:..", "folder"),
        ("folder:~me", "folder"),
    ],
)
def test_published_name_has_no_path(name: str, published: str) -> None:
    assert without_path(name) == published


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("folder:/mine/flowers/", "flowers"),
        ("parquet:flowers/small", "small"),
        ("imagenet", "imagenet"),
        ("folder:..", "folder"),
        ("webdataset:.", "webdataset"),
    ],
)
def test_a_pack_has_the_last_name_of_the_path_of_its_source(name: str, folder: str) -> None:
    assert plain_name(name) == folder
