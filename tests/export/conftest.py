"""Finished runs, trained once for the tests in this folder, and their exports."""

from collections.abc import Callable
from pathlib import Path

import pytest
from export_runs import Students, train_on_custom_images

from raykd.export.export import export_run
from raykd.store.run_folder import RunFolder


@pytest.fixture(scope="package")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder. Its family 'small' has a teacher, and a student of each model."""
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="package")
def students(results: Path) -> Students:
    return Students(results)


@pytest.fixture(scope="package")
def custom_run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run on custom images."""
    return train_on_custom_images(tmp_path_factory.mktemp("custom"))


@pytest.fixture(scope="package")
def exported(results: Path, students: Students, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """A function (kind of model, format) -> folder of the export, written on the first call."""
    root = tmp_path_factory.mktemp("exported")

    def export(kind: str, form: str) -> Path:
        output = root / f"{kind}-{form}"
        if not output.exists():
            export_run(results, students[kind].path.name, form, output, overwrite=False)
        return output

    return export
