"""Where the images of a run are: in memory if they take at most a quarter of it, else on disk."""

from pathlib import Path

import pytest
from small_images import encoded, write_folder

from raykd.data.load import find_source
from raykd.data.storage import choose_storage, decoded_size
from raykd.errors import DataError

IMAGENET, CIFAR10, GB = 1_331_167, 60_000, 10**9


@pytest.mark.parametrize(
    ("num_images", "image_size", "available", "storage"),
    [
        (CIFAR10, 32, 4 * CIFAR10 * 3 * 32 * 32, "memory"),
        (CIFAR10, 32, 4 * CIFAR10 * 3 * 32 * 32 - 1, "disk"),
        (IMAGENET, 224, 500 * GB, "disk"),
        (IMAGENET, 32, 500 * GB, "memory"),
        (IMAGENET, 224, None, "memory"),
    ],
)
def test_images_are_in_memory_if_they_take_at_most_a_quarter_of_it(num_images, image_size, available, storage) -> None:
    choice = choose_storage("auto", num_images, image_size, False, available)
    assert choice.storage == storage
    assert f"{num_images:,} images of {image_size}x{image_size} pixels take" in choice.reason
    assert ("more than a quarter" in choice.reason) == (storage == "disk")


def test_a_request_and_crops_of_whole_images_decide_before_the_memory_does() -> None:
    assert choose_storage("memory", IMAGENET, 224, False, GB).storage == "memory"
    assert choose_storage("disk", 10, 8, False, GB).storage == "disk"
    choice = choose_storage("auto", 10, 8, True, GB)
    assert choice.storage == "disk" and "data.min_crop_area crops whole images" in choice.reason


def test_the_size_of_the_decoded_images_is_that_of_the_first_one(tmp_path: Path) -> None:
    place = write_folder(tmp_path / "insects", 1, 1)
    source = find_source("folder:insects", tmp_path)
    assert (decoded_size(source, None), decoded_size(source, 64)) == (24, 64)
    (place / "train/ant/000.png").write_bytes(encoded(0, (30, 40)))
    with pytest.raises(DataError, match=r"000\.png: has changed since the command started"):
        decoded_size(source, None)
    with pytest.raises(DataError, match=r"000\.png is 30x40 pixels, and a run requires squares"):
        decoded_size(find_source("folder:insects", tmp_path), None)
