"""Whether a job that is restarted again and again trains anything: its progress, compared from restart to restart.

Kept beside the results, in the folder from which the job was submitted, and only while the job waits for a restart.

What a command tells the batch script of the Slurm job that it runs in: the results folder that it trains into.

The batch script compares the folder's progress across restarts of the job. Outside a job nothing is written.
"""

import hashlib
import json
import os
import struct
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from raykd.atomic import write_json

MAX_STALLED = 2  # restarts without a new training step, after which the job stops
MAX_HEADER_BYTES = 100_000_000  # of a safetensors file, by its own definition
# Beside checkpoints: cached logits that are filled in, runs and trials that have ended.
_WHOLE = ("filled.bits",)
_SIZED = ("confirmed.json",)
_THERE = ("best.safetensors", "test.json")
_OF_TRAINING = {"intermediate_value", "datetime_complete"}  # fields of Optuna's lines about an epoch, or a trial's end


def fingerprint(results: Path | None) -> str:
    """A digest of how far everything in `results` is trained; '' where there is nothing.

    Weights, times and logs do not count: it changes with each training step that is saved.
    """
    if results is None or not results.is_dir():
        return ""
    lines = []
    for path in sorted(results.rglob("*")):
        with suppress(OSError):
            if path.name == "last.safetensors":
                lines.append(f"{path} {_step(path)}")
            elif path.name == "study.journal":
                lines.append(f"{path} {_trained(path)}")
            elif path.name in _WHOLE:
                lines.append(f"{path} {hashlib.sha256(path.read_bytes()).hexdigest()}")
            elif path.name in _SIZED:
                lines.append(f"{path} {path.stat().st_size}")
            elif path.name in _THERE:
                lines.append(str(path))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest() if lines else ""


def _step(checkpoint: Path) -> str:
    """'EPOCH STEP' of a checkpoint, read from the header of the safetensors file alone."""
    with checkpoint.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = file.read(min(size, MAX_HEADER_BYTES))
    try:
        progress = json.loads(json.loads(header)["__metadata__"]["progress"])
        return f"{progress['epoch']} {progress['step']}"
    except (ValueError, KeyError, TypeError):
        return ""  # damaged: the run that resumes from it reports the damage


def _trained(journal: Path) -> str:
    """Each epoch and each end of a trial, once: a search that is resumed writes some of its lines again."""
    found = set()
    for line in journal.read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(ValueError):  # damaged; the search reports that
            log = json.loads(line)
            if isinstance(log, dict) and not _OF_TRAINING.isdisjoint(log):
                found.add(f"{log.get('trial_id')} {log.get('step')} {log.get('state')}")
    return ", ".join(sorted(found))


class ProgressRecord:
    """The progress of job `job_id` at its last restart, in a file below `folder`."""

    def __init__(self, folder: Path, job_id: int) -> None:
        self._path = folder / f".raykd-job-{job_id}.json"

    def stalled(self, now: str) -> int:
        """How many restarts in a row trained nothing, this one included, where the progress is `now`."""
        found = self._read()
        return found.get("stalled", 0) + 1 if found.get("progress") == now else 0

    def write(self, now: str, stalled: int) -> None:
        with suppress(OSError):  # the job is then restarted without a limit but RAYKD_MAX_REQUEUES
            write_json(self._path, {"progress": now, "stalled": stalled})

    def remove(self) -> None:
        with suppress(OSError):
            self._path.unlink(missing_ok=True)

    def _read(self) -> dict[str, Any]:
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        is_whole = isinstance(found, dict) and isinstance(found.get("stalled", 0), int)
        return found if is_whole else {}


VARIABLE = "RAYKD_RESULTS_NOTE"  # a file in the job's private folder


def note_results(results: Path, environ: Mapping[str, str] = os.environ) -> None:
    """Record `results`. A note that cannot be written is not worth ending a training for."""
    if path := environ.get(VARIABLE):
        try:
            Path(path).write_text(str(results.absolute()), encoding="utf-8")
        except OSError:
            return


def noted_results(path: Path) -> Path | None:
    """What was recorded at `path`, or None."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        return None
    return Path(text) if text else None
