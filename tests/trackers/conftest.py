"""A finished run that no tracker knows."""

import shutil
from pathlib import Path

import pytest
from fake_tracker import TEACHER, train


@pytest.fixture(scope="package")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("trained")
    train(TEACHER, results)
    return results


@pytest.fixture
def results(trained: Path, tmp_path: Path) -> Path:
    """Return a results folder with a finished teacher, for one test."""
    return Path(shutil.copytree(trained, tmp_path / "results"))
