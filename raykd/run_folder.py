"""A run's folder: what stands in it, and who writes it. Imports no torch: the report reads it too.

run.json  history.parquet  checkpoint/last.safetensors  best.safetensors  val.json  test.json  costs.json  usage/
tensorboard/  .lock
"""

import errno
import json
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
from raykd.errors import ConfigError, RunFailed

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
    def began_under(self) -> str:
        """'live' or 'table' where the run is half done under such a teacher; else ''."""
        return (self.record().get("compute", {}).get("teacher") or "") if self.checkpoint.is_file() else ""

    @property
    def test(self) -> Path:
        """The best weights' figures on the test set, JSON."""
        return self.path / "test.json"

    @property
    def val(self) -> Path:
        """The best weights' figures on validation, JSON."""
        return self.path / "val.json"

    @property
    def costs(self) -> Path:
        """What the model costs whoever uses it, JSON."""
        return self.path / "costs.json"

    def usage(self, rank: int) -> Path:
        """What worker `rank` took to train the run, JSON; written by that worker."""
        return self.path / "usage" / f"{rank}.json"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @cached_property
    def _lock(self) -> FileLock:
        return lock_at(self.path / ".lock")

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
        if self.is_held():
            return "running"
        return "failed" if recorded == "failed" else "interrupted"

    def is_held(self) -> bool:
        """Whether a process is writing the run now."""
        return is_locked(self._lock)

    def write_history(self, rows: Sequence[Mapping[str, float | int]]) -> None:
        """One row an epoch. A column that some rows lack (a term that comes in later) is null there."""
        names = dict.fromkeys(name for row in rows for name in row)
        with replacing(self.path / "history.parquet") as aside:
            pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in names}), aside)

    def history(self) -> list[dict[str, Any]]:
        """The rows so far, oldest first."""
        path = self.path / "history.parquet"
        return pq.read_table(path).to_pylist() if path.is_file() else []


def lock_at(path: Path) -> FileLock:
    """A lock of the kernel's, which goes with its process; never the mere file that filelock would fall back to."""
    return FileLock(path, is_singleton=False, fallback_to_soft=False)


def is_locked(lock: FileLock) -> bool:
    """Whether another process has `lock` now."""
    try:
        with lock.acquire(timeout=0):
            return False
    except Timeout:
        return True
    except OSError as error:
        if error.errno in (errno.EROFS, errno.EACCES):  # a read-only store: nobody can write there
            return False
        raise


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
