"""A process loads or opens each data set once, in memory or on disk as the experiment and the memory require."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pack_of_images import write_pack
from small_images import encoded, write_folder

from raykd.data.load import load_dataset
from raykd.data.types import Dataset
from raykd.errors import ConfigError, DataError
from raykd.orchestration.options import Options, dataset_of
from raykd.spec.experiment import Data

DATA = Data("digits", val_images=100)


def test_images_are_loaded_once_even_if_other_fields_of_the_data_differ(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    loads = []

    def load(*arguments: Any, cache: Path | None) -> Dataset:
        loads.append((arguments, cache))
        return load_dataset(*arguments)

    monkeypatch.setattr("raykd.orchestration.options.load_dataset", load)
    options = Options(tmp_path / "results", tmp_path / "data")
    options.decoded.mkdir(parents=True)
    first = dataset_of(DATA, options)
    assert dataset_of(replace(DATA, val_images=50, flip=True), options) is first
    assert dataset_of(replace(DATA, image_size=8), options).image_size == 8
    arguments = [("digits", tmp_path / "data", size) for size in (DATA.image_size, 8)]
    assert loads == [(each, options.decoded) for each in arguments]


def test_images_are_not_decoded_to_a_folder_that_does_not_exist(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    caches = []

    def load(*arguments: Any, cache: Path | None) -> Dataset:
        caches.append(cache)
        return load_dataset(*arguments)

    monkeypatch.setattr("raykd.orchestration.options.load_dataset", load)
    dataset_of(DATA, Options(tmp_path / "results", tmp_path / "data"))
    assert caches == [None]


CROPS = {"crop_padding": 0, "min_crop_area": 0.2, "image_size": 16, "val_images": 2}


@pytest.fixture
def options(tmp_path: Path) -> Options:
    images = [encoded(number) for number in range(6)]
    write_pack(tmp_path / "data" / "packed" / "insects", images, images[:3])
    return Options(tmp_path / "results", tmp_path / "data")


def test_a_small_pack_is_decoded_into_memory_and_random_crops_stay_on_disk(options: Options) -> None:
    squares = Data("packed:insects", image_size=16, val_images=2)
    in_memory, on_disk = dataset_of(squares, options), dataset_of(Data("packed:insects", **CROPS), options)
    assert in_memory.train.is_in_memory and not on_disk.train.is_in_memory
    assert in_memory.identity == on_disk.identity
    assert on_disk.notes[-1] == "images are decoded in each step: data.min_crop_area crops whole images"
    assert not dataset_of(replace(squares, storage="disk"), options).train.is_in_memory


def test_a_pack_larger_than_a_quarter_of_the_memory_stays_on_disk(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raykd.orchestration.options.available_bytes", lambda: 4 * 9 * 3 * 16**2 - 1)
    dataset = dataset_of(Data("packed:insects", image_size=16, val_images=2), options)
    assert not dataset.train.is_in_memory
    assert dataset.notes[-1].endswith("more than a quarter of 2.76e-05 GB that are free")


def test_images_on_disk_must_be_packed_and_the_error_has_the_commands(options: Options) -> None:
    write_folder(options.data_folder / "bugs")
    with pytest.raises(ConfigError, match=r"run 'python -m raykd pack folder:bugs' once, and set .*=packed:bugs"):
        dataset_of(Data("folder:bugs", **CROPS), options)
    with pytest.raises(DataError, match=r"no such folder; pack a data set with: python -m raykd pack NAME"):
        dataset_of(Data("packed:bugs", **CROPS), options)


@pytest.mark.parametrize(("field", "changes"), [("min_crop_area", CROPS), ("storage", {"storage": "disk"})])
def test_data_sets_that_are_always_in_memory_refuse_images_on_disk(
    options: Options, field: str, changes: dict[str, Any]
) -> None:
    message = f"data.{field} = .*requires images on disk, and those of digits are always in memory"
    with pytest.raises(ConfigError, match=message):
        dataset_of(Data("digits", **changes), options)


def test_the_number_of_loader_threads_is_that_of_the_options(options: Options) -> None:
    dataset = dataset_of(Data("packed:insects", **CROPS), replace(options, loaders=3))
    assert dataset.train.images.threads.count == 3
