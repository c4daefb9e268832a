"""A worker's images: loaded once for all that it does, and again only where they are others."""

from dataclasses import replace
from pathlib import Path

import pytest

from raykd.data import dataset
from raykd.experiment import Data
from raykd.orchestration import datasets
from raykd.orchestration.options import Options

DATA = Data("digits", val_images=100)


def test_images_are_loaded_once_whatever_else_of_the_data_differs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    loads = []
    monkeypatch.setattr(datasets, "load", lambda *asked, cache: loads.append((asked, cache)) or dataset.load(*asked))
    options = Options(tmp_path / "results", tmp_path / "data")
    first = datasets.dataset_of(DATA, options)
    assert datasets.dataset_of(replace(DATA, val_images=50, flip=True), options) is first
    assert datasets.dataset_of(replace(DATA, image_size=8), options).image_size == 8
    asked = [("digits", tmp_path / "data", size) for size in (DATA.image_size, 8)]
    assert loads == [(one, options.decoded) for one in asked]
