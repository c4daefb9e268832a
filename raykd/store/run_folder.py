"""A run's folder: what stands in it, and who writes it. Imports no torch: the report reads it too.

run.json  history.parquet  checkpoint/last.safetensors  best.safetensors  val.json  test.json  costs.json  usage/
tensorboard/  .lock
"""

import errno
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import AcquireReturnProxy, FileLock, Timeout

from raykd.atomic import make_folder, remove_leftovers, replacing
from raykd.errors import RunFailed
from raykd.provenance import file_sha256
from raykd.store.codec import read_record, require_record, write_record
from raykd.store.damage import DamagedFile, damaged
from raykd.store.records import RunRecord

Status = Literal["not started", "running", "interrupted", "failed", "done", "damaged"]


@dataclass(frozen=True)
class RunFolder:
    """The files of one run.

    Only the holder of `writer()` changes run.json, the history, the checkpoint and the best weights. The other files
    are replaced as a whole: usage/ by the worker of that rank, val.json, costs.json and test.json by any evaluation
    of the run, since all of them write the same.
    """

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
    def teacher_source_at_start(self) -> str:
        """'live' or 'cache' if the run is partly trained with such a teacher, else ''."""
        record = self.record() if self.checkpoint.is_file() else None
        return (record.compute.teacher or "") if record else ""

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
        make_folder(self.path)
        try:
            return self._lock.acquire(timeout=wait_s)
        except IsADirectoryError:
            raise _lock_is_a_folder(self._lock) from None
        except Timeout:
            raise RunFailed(f"{self.path.name} is locked by {self.last_writer}; wait for it, or end it") from None

    def remove_leftovers(self) -> None:
        """Remove what a killed writer left half written: a checkpoint's size each time."""
        for folder in (self.path, self.checkpoint.parent):
            remove_leftovers(folder)

    @property
    def record_path(self) -> Path:
        return self.path / "run.json"

    def record(self) -> RunRecord | None:
        """Return run.json, or None before the run has started. Raises DamagedFile."""
        return read_record(RunRecord, self.record_path)

    def require_record(self) -> RunRecord:
        """Return run.json. Raises DamagedFile also where it is missing."""
        return require_record(RunRecord, self.record_path)

    def write_record(self, record: RunRecord) -> None:
        write_record(self.record_path, record)

    def update(self, **changes: Any) -> None:
        """Replace fields of run.json. Raises DamagedFile where it is missing."""
        self.write_record(replace(self.require_record(), **changes))

    @property
    def last_writer(self) -> str:
        """The process that trains the run, or trained it last."""
        record = self.record()
        return record.writer if record else "another process"

    def weights_damage(self) -> str:
        """Return why the best weights are not those that the finished run left, or ''."""
        record = self.record()
        if record is None or record.weights_sha256 is None:
            return ""
        if not self.best.is_file():
            return "it is missing"
        if file_sha256(self.best) == record.weights_sha256:
            return ""
        return "its SHA-256 is not the one in run.json, so it was changed or is of another run"

    def weights_sha256(self) -> str:
        """Return the SHA-256 of the best weights. Raises DamagedFile where they are not those that the run left."""
        if why := self.weights_damage():
            raise damaged(self.best, why)
        return file_sha256(self.best)

    def status(self) -> Status:
        """Return how far the run is: 'interrupted' when it began and nobody trains it now.

        A finished run is 'damaged' when its best weights are not those that it left.
        """
        record = self.record()
        if record is None:
            return "not started"
        if record.status == "done":
            if not self.best.is_file():
                return "interrupted"
            return "damaged" if self.weights_damage() else "done"
        if self.is_held():
            return "running"
        return "failed" if record.status == "failed" else "interrupted"

    def is_held(self) -> bool:
        """Whether a process is writing the run now."""
        return is_locked(self._lock)

    def write_history(self, rows: Sequence[Mapping[str, float | int]]) -> None:
        """One row an epoch. A column that some rows lack (a term that comes in later) is null there."""
        names = dict.fromkeys(name for row in rows for name in row)
        with replacing(self.path / "history.parquet") as aside:
            table = pa.table({name: [row.get(name) for row in rows] for name in names})
            pq.write_table(table, aside, write_page_checksum=True)

    def history(self) -> list[dict[str, Any]]:
        """Return the rows so far, oldest first. Raises DamagedFile."""
        table = self.history_table()
        return [] if table is None else table.to_pylist()

    def history_table(self) -> pa.Table | None:
        """Return history.parquet, None where there is none yet. Raises DamagedFile.

        Each page is compared with its checksum, and the file of a finished run with its SHA-256 in run.json.
        """
        path, record = self.path / "history.parquet", self.record()
        recorded = record.history_sha256 if record else None
        try:
            is_intact = recorded is None or file_sha256(path) == recorded
            table = pq.ParquetFile(path, page_checksum_verification=True).read() if is_intact else None
        except FileNotFoundError:
            return None
        except (OSError, ValueError, pa.ArrowException) as error:
            raise damaged(path, str(error)) from None
        if table is None:
            raise damaged(path, "its SHA-256 is not the one in run.json")
        return table


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
    except IsADirectoryError:
        raise _lock_is_a_folder(lock) from None
    except OSError as error:
        if error.errno in (errno.EROFS, errno.EACCES):  # a read-only store: nobody can write there
            return False
        raise


def _lock_is_a_folder(lock: FileLock) -> DamagedFile:
    return DamagedFile(f"'{lock.lock_file}' is damaged: it is a folder and must be a file; remove it and rerun")


def now() -> str:
    """The time in UTC to the second, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")
