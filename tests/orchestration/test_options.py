"""A process loads each data set once."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raykd.data.load import load_dataset
from raykd.data.sources import ImageSource
from raykd.data.types import Dataset
from raykd.orchestration.options import Options, data_key, dataset_of
from raykd.spec.experiment import Data

DATA = Data("digits", val_images=100)
OTHER = Data("digits", image_size=8)


def test_images_are_loaded_once_even_if_other_fields_of_the_data_differ(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    loads = []

    def load(*arguments: Any, cache: Path | None, source: ImageSource | None) -> Dataset:
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

    def load(*arguments: Any, cache: Path | None, source: ImageSource | None) -> Dataset:
        caches.append(cache)
        return load_dataset(*arguments)

    monkeypatch.setattr("raykd.orchestration.options.load_dataset", load)
    dataset_of(DATA, Options(tmp_path / "results", tmp_path / "data"))
    assert caches == [None]


def test_all_paths_are_absolute_for_a_process_with_another_working_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    key = data_key(DATA)
    options = Options(Path("results"), Path("data"), packs=((key, Path("data/pack")), (data_key(OTHER), None)))
    made = options.with_absolute_paths()
    assert (made.results, made.data_folder) == (tmp_path / "results", tmp_path / "data")
    assert made.packs == ((key, tmp_path / "data" / "pack"), (data_key(OTHER), None))
    assert replace(made, results=options.results, data_folder=options.data_folder, packs=options.packs) == options
