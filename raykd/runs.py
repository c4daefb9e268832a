"""The run store: each run's folder, what stands in it, and who writes it.

ray_results/<family>/<run>/  run.json  history.parquet  checkpoint/last.safetensors  best.safetensors
                             test.json  tensorboard/  .lock
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import AcquireReturnProxy, FileLock, Timeout

from raykd.atomic import remove_leftovers, replacing, write_json
from raykd.config import to_dict
from raykd.errors import ConfigError, RunFailed
from raykd.plan import Plan, Run

Status = Literal["not started", "running", "interrupted", "failed", "done"]


@dataclass(frozen=True)
class RunFolder:
    """The files of one run. Only the holder of `writer()` may change them."""

    path: Path

    @property
    def best(self) -> Path:
        """The weights of the best epoch by validation, safetensors."""
        return self.path / "best.safetensors"

    @property
    def checkpoint(self) -> Path:
        """Everything needed to go on exactly, in one safetensors file."""
        return self.path / "checkpoint" / "last.safetensors"

    @property
    def test(self) -> Path:
        """The best weights' figures on the test set, JSON."""
        return self.path / "test.json"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @cached_property
    def _lock(self) -> FileLock:
        return FileLock(self.path / ".lock", is_singleton=False)

    def writer(self, wait_s: float = 0) -> AcquireReturnProxy:
        """The lock that makes its holder the only writer, released by the kernel when the process ends.

        Raises RunFailed when another process still holds it after `wait_s` seconds.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            return self._lock.acquire(timeout=wait_s)
        except Timeout:
            owner = self.record().get("writer", "another process")
            raise RunFailed(f"{self.path.name} is being written by {owner}; wait for it, or end it") from None

    def remove_leftovers(self) -> None:
        """Remove what a killed writer left half written: a checkpoint's size each time."""
        for folder in (self.path, self.checkpoint.parent):
            remove_leftovers(folder)

    def record(self) -> dict[str, Any]:
        """run.json, or {} before the run has started. Raises ConfigError when it is damaged."""
        return read_json(self.path / "run.json")

    def update(self, **changes: Any) -> None:
        """Change fields of run.json, the rest untouched."""
        write_json(self.path / "run.json", self.record() | changes)

    def status(self) -> Status:
        """How far the run is; 'interrupted' says that it began and that nobody is at it now."""
        recorded = self.record().get("status")
        if recorded == "done":
            return "done" if self.best.is_file() else "interrupted"
        if recorded is None:
            return "not started"
        if self._is_held():
            return "running"
        return "failed" if recorded == "failed" else "interrupted"

    def _is_held(self) -> bool:
        try:
            with self._lock.acquire(timeout=0):
                return False
        except Timeout:
            return True
        except OSError:  # a read-only store: nobody can write there
            return False

    def write_history(self, rows: Sequence[Mapping[str, float | int]]) -> None:
        """One row an epoch. A column that some rows lack (a term that comes in later) is null there."""
        names = dict.fromkeys(name for row in rows for name in row)
        with replacing(self.path / "history.parquet") as aside:
            pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in names}), aside)

    def history(self) -> list[dict[str, Any]]:
        """The rows so far, oldest first."""
        path = self.path / "history.parquet"
        return pq.read_table(path).to_pylist() if path.is_file() else []


@dataclass(frozen=True)
class RunStore:
    """All runs under one results folder."""

    results: Path

    def folder(self, run: Run) -> RunFolder:
        return RunFolder(self.results / run.family / run.name)

    def status(self, run: Run) -> Status:
        return self.folder(run).status()

    def require_writable(self) -> None:
        """Raise ConfigError now rather than hours later."""
        folder = self.results
        while not os.access(folder, os.F_OK):  # Path.exists raises where a folder above may not be entered
            folder = folder.parent
        if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
            raise ConfigError(
                f"results folder '{self.results}' cannot be written: '{folder}' is no folder of yours; "
                "name another with --results"
            )

    def write_plan(self, plan: Plan) -> None:
        """Say in <family>/plan.json which runs the family's report is about; stages not planned stay as they were."""
        path = self.results / plan.experiment.family / "plan.json"
        asked = {stage: names for stage, names in plan.stages.items() if names}
        write_json(
            path,
            {
                "family": plan.experiment.family,
                "stages": read_json(path).get("stages", {}) | asked,
                "experiment": to_dict(plan.experiment, results_only=True),
            },
        )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, or {} where there is no file. Raises ConfigError naming a file that is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ConfigError(f"'{path}' is damaged ({error}); move it away and run again") from None
    if not isinstance(content, dict):
        raise ConfigError(f"'{path}' is damaged (no JSON object); move it away and run again")
    return content


def now() -> str:
    """The time in UTC to the second, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")
