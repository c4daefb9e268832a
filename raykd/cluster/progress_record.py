"""Whether a job that is restarted again and again makes progress in training.

A command of the job notes the results folder that it trains into (`note_results`). The batch script hashes the progress
in that folder and compares the hash from restart to restart. The record is a file in the submit directory. It exists
from the first requeue until the job ends without another requeue.
"""

import hashlib
import json
import os
import struct
from contextlib import suppress
from pathlib import Path

from raykd.disk.atomic import write_json
from raykd.disk.lookup import is_folder

MAX_STALLED = 2  # restarts without a new training step, after which the job stops
MAX_HEADER_BYTES = 100_000_000  # the limit in the definition of the safetensors format
RESULTS_NOTE = "RAYKD_RESULTS_NOTE"  # environment variable: the path of a file in the job's private folder
_TRAINING_FIELDS = {"intermediate_value", "datetime_complete"}  # in Optuna's lines about an epoch or a trial's end


def note_results(results: Path) -> None:
    """Note the results folder for the batch script; outside a job, do nothing."""
    if path := os.environ.get(RESULTS_NOTE):
        with suppress(OSError):  # it must not end the training
            Path(path).write_text(str(results.absolute()), encoding="utf-8")


def read_results_note(path: Path) -> Path | None:
    """Return the results folder that is noted in the file `path`, or None."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        return None
    return Path(text) if text else None


def progress_digest(results: Path | None) -> str:
    """Return a digest that changes with each saved step of the work, and with nothing else; '' if there is none."""
    if results is None or not is_folder(results):
        return ""
    lines = []
    for path in sorted(results.rglob("*")):
        with suppress(OSError):
            if path.name == "last.safetensors":
                lines.append(f"{path} {_step(path)}")
            elif path.name == "study.journal":
                lines.append(f"{path} {_trial_progress(path)}")
            elif path.name == "filled.bits":  # which parts of a logit cache are filled
                lines.append(f"{path} {hashlib.sha256(path.read_bytes()).hexdigest()}")
            elif path.name == "confirmed.json":  # a search's confirmation
                lines.append(f"{path} {path.stat().st_size}")
            # Files of a run that has ended, and the packed parts of a data set.
            elif path.name in ("best.safetensors", "test.json") or path.suffix == ".arrow":
                lines.append(str(path))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest() if lines else ""


def _step(checkpoint: Path) -> str:
    """Return 'EPOCH STEP' of a checkpoint, read from the header of the safetensors file only."""
    with checkpoint.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = file.read(min(size, MAX_HEADER_BYTES))
    try:
        progress = json.loads(json.loads(header)["__metadata__"]["progress"])
        return f"{progress['epoch']} {progress['step']}"
    except (ValueError, KeyError, TypeError):
        return ""  # damaged: the run that resumes from it reports the damage


def _trial_progress(journal: Path) -> str:
    """Return each epoch and each end of a trial once, because a resumed search writes some lines again."""
    lines = set()
    for line in journal.read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(ValueError):  # a damaged line: the search reports it
            log = json.loads(line)
            if isinstance(log, dict) and not _TRAINING_FIELDS.isdisjoint(log):
                lines.add(f"{log.get('trial_id')} {log.get('step')} {log.get('state')}")
    return ", ".join(sorted(lines))


class ProgressRecord:
    """The progress of job `job_id` at its last restart, in a file in `folder`."""

    def __init__(self, folder: Path, job_id: int) -> None:
        self._path = folder / f".raykd-job-{job_id}.json"

    def num_stalled(self, progress: str | None) -> int:
        """Return how many consecutive restarts, this one included, ended with the same `progress`.

        progress: None if Ray did not start in this one.
        """
        before, stalled = self._read()
        return stalled + 1 if progress in (None, before) else 0

    def write(self, progress: str | None, num_stalled: int) -> None:
        """Record the `progress` of this restart, None for that of the one before."""
        progress = self._read()[0] if progress is None else progress
        with suppress(OSError):  # then only RAYKD_MAX_REQUEUES limits the restarts
            write_json(self._path, {"progress": progress, "stalled": num_stalled})

    def _read(self) -> tuple[str | None, int]:
        try:
            record = json.loads(self._path.read_text(encoding="utf-8"))
            return record["progress"], int(record["stalled"])
        except (OSError, ValueError, KeyError, TypeError):  # no record, or a damaged one
            return None, 0

    def remove(self) -> None:
        with suppress(OSError):
            self._path.unlink(missing_ok=True)
