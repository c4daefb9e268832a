"""What all tests share: quiet threads. Small experiments on the digits are in small_runs.py beside this file."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from raykd.store.run_folder import RunFolder

# Tests run side by side: one thread each, and two that share a core do not spin. Set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


PLACES = {
    "ray": "orchestration",
    "slurm": "cluster",
}  # make test looks for them there alone: all tests take 7 s to collect


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for mark, folder in PLACES.items():
            if item.get_closest_marker(mark) and folder not in item.path.parts:
                raise pytest.UsageError(f"{item.nodeid} is marked {mark}: it belongs below tests/{folder}/")


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty local cache of the Hugging Face Hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture
def run_folder(tmp_path: Path) -> "RunFolder":
    """The folder of a run that has not started."""
    from raykd.store.run_folder import RunFolder  # here: torch comes with it, and the report's tests need none

    return RunFolder(tmp_path / "run")
