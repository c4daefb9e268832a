"""The folder of one run: its files, their writers and the status of the run. Imports no torch."""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from raykd.disk.atomic import remove_leftovers, replacing
from raykd.disk.damage import damaged, require_regular
from raykd.disk.lookup import is_file
from raykd.provenance import file_sha256
from raykd.spec.stages import TEACHERS, TRIALS, Stage
from raykd.store.locked_folder import FileIn, LockedFolder
from raykd.store.records import RunRecord

_JOB, _PROCESS = re.compile(r"in Slurm job (\S+)"), re.compile(r"process (\d+) on (\S+)")  # see `this_process`
Status = Literal["not started", "running", "interrupted", "failed", "done", "damaged"]


@dataclass(frozen=True)
class RunFolder(LockedFolder[RunRecord]):
    """The files of one run.

    Only the holder of the lock changes run.json, the history, the checkpoint and the best weights. Each worker replaces
    its own file in usage/. Any evaluation may replace val.json, costs.json and test.json, because all evaluations write
    the same values.
    """

    record_class = RunRecord
    record_path = FileIn("run.json")
    best = FileIn("best.safetensors")  # the weights with the best validation top-1
    checkpoint = FileIn("checkpoint/last.safetensors")  # the complete training state, for an exact resume
    val = FileIn("val.json")  # Metrics of the best weights on the validation split
    test = FileIn("test.json")  # Metrics of the best weights on the test split
    costs = FileIn("costs.json")  # inference Costs of the model
    history_path = FileIn("history.parquet")  # one row per epoch
    tensorboard = FileIn("tensorboard")
    tags_path = FileIn("tags.json")  # TagsRecord; any process may replace it
    code = FileIn("code")  # copies of the user's files that the run executes, see training/run_sources.py

    @property
    def is_trial(self) -> bool:
        """Whether it is <results>/<family>/<search>/trials/<number>, and not <results>/<family>/<run>."""
        return self.path.parent.name == TRIALS  # no family may have this name

    @property
    def results(self) -> Path:
        """The results folder that has the run."""
        return self.path.parents[3 if self.is_trial else 1]

    @property
    def family(self) -> str:
        """The name of the family's folder that has the run."""
        return self.path.parents[2 if self.is_trial else 0].name

    @property
    def name(self) -> str:
        """The run's name: that of its folder; of a trial '<family>/<search>/<number>'."""
        if not self.is_trial:
            return self.path.name
        return f"{self.family}/{self.path.parents[1].name}/{self.path.name}"

    def usage(self, rank: int) -> Path:
        """Return the path of the UsageFile of worker `rank`."""
        return self.path / "usage" / f"{rank}.json"

    @property
    def teacher_source_at_start(self) -> str:
        """'live' or 'cache' if the run is partly trained with such a teacher, else ''."""
        record = self.record() if is_file(self.checkpoint) else None
        return (record.compute.teacher or "") if record else ""

    def remove_leftovers(self) -> None:
        """Remove the temporary files of killed trainers, as large as a checkpoint. The caller holds the lock.

        Those of files that other processes may be writing now, such as test.json and tags.json, are kept.
        """
        remove_leftovers(self.path, [path.name for path in (self.record_path, self.history_path, self.best)])
        remove_leftovers(self.checkpoint.parent)

    def remove_checkpoint(self) -> None:
        """Remove the checkpoint of a finished run, which resumes no more. The caller holds the lock."""
        self.checkpoint.unlink(missing_ok=True)
        remove_leftovers(self.checkpoint.parent)
        with suppress(OSError):  # the folder is missing, or has files of the user
            self.checkpoint.parent.rmdir()

    @property
    def last_writer(self) -> str:
        """The process that trains the run or trained it last."""
        record = self.record()
        return record.writer if record else "another process"

    @property
    def holder(self) -> str:
        """The process that trains the run now, since when, and how to end it."""
        record = self.record()
        if record is None or record.status != "running":
            return "another process, which has just started"
        since = datetime.fromtimestamp(self.record_path.stat().st_mtime, UTC)
        remedy = ""
        if match := _JOB.search(record.writer):
            remedy = f" (to end it: scancel {match[1]})"
        elif match := _PROCESS.match(record.writer):
            remedy = f" (to end it, on {match[2]}: kill {match[1]})"
        return f"{record.writer} since {since:%Y-%m-%d %H:%M} UTC{remedy}"

    def weights_damage(self) -> str:
        """Return why the best weights differ from those that the finished run wrote, or ''."""
        record = self.record()
        if record is None or record.status != "done":
            return ""
        if record.weights_sha256 is None:
            return "run.json does not have its SHA-256"
        try:
            if is_file(self.best) and file_sha256(self.best) == record.weights_sha256:
                return ""
        except FileNotFoundError:  # removed meanwhile
            pass
        if not is_file(self.best):
            return "it is missing"
        return "its SHA-256 is not the one in run.json, so it was changed or belongs to another run"

    def weights_sha256(self) -> str:
        """Return the SHA-256 of the best weights. Raises DamagedFile if the run wrote other weights."""
        if reason := self.weights_damage():
            raise damaged(self.best, reason)
        return file_sha256(self.best)

    def status(self, fingerprint: str = "", reads_weights: bool = True) -> Status:
        """Return the status of the run.

        It is 'interrupted' if the run has started and no process is training it, and 'damaged' if the run is finished
        and its best weights are missing or not those that it wrote: it is not trained again then. Raises DamagedFile
        if run.json is damaged, or belongs to a run with another fingerprint than the expected one, if that is given.

        reads_weights: False leaves changed weights unnoticed, for lists of many runs.
        """
        record = self.record()
        if record is None:
            return "not started"
        if fingerprint and record.fingerprint != fingerprint:
            reason = f"it belongs to another run, whose fingerprint starts with {record.fingerprint[:12]}"
            raise damaged(self.record_path, reason)
        if record.status == "done":
            is_damaged = not is_file(self.best) or (reads_weights and bool(self.weights_damage()))
            return "damaged" if is_damaged else "done"
        if self.is_held():
            return "running"
        return "failed" if record.status == "failed" else "interrupted"

    def write_history(self, rows: Sequence[Mapping[str, float | int]]) -> None:
        """Write one row per epoch. A column is null in rows without it, e.g. a loss term that starts later."""
        names = dict.fromkeys(name for row in rows for name in row)
        with replacing(self.history_path) as temporary:
            table = pa.table({name: [row.get(name) for row in rows] for name in names})
            pq.write_table(table, temporary, write_page_checksum=True)

    def history(self) -> list[dict[str, Any]]:
        """Return the rows of all finished epochs, oldest first. Raises DamagedFile."""
        table = self.history_table()
        return [] if table is None else table.to_pylist()

    def history_table(self) -> pa.Table | None:
        """Return history.parquet, or None if it does not exist yet.

        Raises DamagedFile if a page does not match its checksum, or a finished run's file its SHA-256 in run.json.
        """
        path, record = self.history_path, self.record()
        require_regular(path)
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


def planned_folder(results: Path, family: str, stage: Stage, name: str) -> RunFolder:
    """Return the folder of a run that the plan of `family` names. All families share the folder of the teachers."""
    return RunFolder(results / (TEACHERS if stage == "teacher" else family) / name)


def now() -> str:
    """Return the current UTC time to the second, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")
