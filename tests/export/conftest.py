"""Runs that are done, trained once for the tests of this folder, and every export of them."""

from collections.abc import Callable
from pathlib import Path

import pytest
from export_runs import train_on_own_pictures, train_students

from raykd.export.export import export_run
from raykd.store.run_folder import RunFolder


@pytest.fixture(scope="package")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a teacher and a student of each model in the family 'small'."""
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="package")
def students(results: Path) -> dict[str, RunFolder]:
    return train_students(results)


@pytest.fixture(scope="package")
def own_run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Of a person's own pictures."""
    return train_on_own_pictures(tmp_path_factory.mktemp("own"))


@pytest.fixture(scope="package")
def exported(
    results: Path, students: dict[str, RunFolder], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], Path]:
    """(kind of model, format) -> the folder, written when it is first asked for."""
    root = tmp_path_factory.mktemp("exported")

    def export(kind: str, form: str) -> Path:
        output = root / f"{kind}-{form}"
        if not output.exists():
            export_run(results, students[kind].path.name, form, output, overwrite=False)
        return output

    return export
