"""A run's folder: what stands in it, and who writes it. Imports no torch: the report reads it too.

run.json  history.parquet  checkpoint/last.safetensors  best.safetensors  val.json  test.json  costs.json  usage/
tensorboard/  .lock
"""

import errno
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from raykd.store.codec import Fields, write_record
from raykd.store.damage import DamagedFile, damaged

Status = Literal["not started", "running", "interrupted", "failed", "done", "damaged"]
_TEXTS = """
    name family stage model method fingerprint status reason started ended writer
    teacher_sha256 weights_sha256 history_sha256
"""


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
        """'live' or 'cache' where the run is half done under such a teacher; else ''."""
        if not self.checkpoint.is_file():
            return ""
        return self.fields().optional_part("compute").optional_text("teacher") or ""

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
            owner = self.record().get("writer", "another process")
            raise RunFailed(f"{self.path.name} is being written by {owner}; wait for it, or end it") from None

    def remove_leftovers(self) -> None:
        """Remove what a killed writer left half written: a checkpoint's size each time."""
        for folder in (self.path, self.checkpoint.parent):
            remove_leftovers(folder)

    def record(self) -> dict[str, Any]:
        """Return the fields of run.json, or {} before the run has started. Raises DamagedFile."""
        return dict(self.fields().values)

    def fields(self) -> Fields:
        """Return the same, to read fields that must be there. Every field that is there has its kind.

        Raises DamagedFile.
        """
        path = self.path / "run.json"
        fields = Fields.read_if_exists(path) or Fields(path, {})
        _require_kinds(fields)
        return fields

    def update(self, **changes: Any) -> None:
        """Change fields of run.json, the rest untouched."""
        write_record(self.path / "run.json", self.record() | changes)

    def weights_damage(self) -> str:
        """Return why the best weights are not those that the finished run left, or ''."""
        recorded = self.record().get("weights_sha256")
        if recorded is None:
            return ""
        if not self.best.is_file():
            return "it is missing"
        if file_sha256(self.best) == recorded:
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
        recorded = self.record().get("status")
        if recorded == "done" and self.best.is_file():
            return "damaged" if self.weights_damage() else "done"
        if recorded == "done":
            return "interrupted"
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
        path, recorded = self.path / "history.parquet", self.record().get("history_sha256")
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


def _require_kinds(record: Fields) -> None:
    """Raise DamagedFile for a field of run.json that is there and of another kind. A run adds fields as it trains."""
    for name in _TEXTS.split():
        record.optional(name, record.text)
    if record.values.get("status") not in (None, "running", "done", "failed"):
        record.refuse(f"status is {record.values['status']!r:.80}, not running, done or failed")
    for name in ("seed", "resumes", "parameters", "peak_memory_bytes"):
        record.optional(name, record.count)
    record.optional("seconds", lambda name: record.number(name, low=0))
    for name in ("config", "versions", "hardware", "git", "model_metrics"):
        record.optional(name, record.mapping)
    compute, best = record.optional_part("compute"), record.optional_part("best")
    for name in ("device", "precision", "teacher"):
        compute.optional_text(name)
    if compute.values.get("precision") not in (None, "fp32", "bf16"):
        record.refuse(f"compute.precision is {compute.values['precision']!r:.80}, not fp32 or bf16")
    compute.optional("threads", compute.count)
    compute.optional("workers", compute.counts)
    best.optional("epoch", best.count)
    best.optional("val_top1", lambda name: best.number(name, low=0, high=100))


def now() -> str:
    """The time in UTC to the second, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")
