"""Experiments sent to a job's Ray while it runs: each a Ray job, which is a process on the head's node.

Ray is asked on that node only (jobs_api.py). What the experiments print is read from the node's disk, where Ray writes
it: it may be large, and any bytes.

The command line of an experiment: words that no shell sees.
"""

import re
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from raykd.cluster.job_folder import JobFolder
from raykd.cluster.jobs_api import JobsApi
from raykd.cluster.ray_start import here
from raykd.errors import ConfigError, Interrupted, RaykdError

USAGE = "sbatch slurm/ray_cluster.slurm experiments/distill_cnn.py [ARGS...]"


def experiment_command(words: Sequence[str], folder: Path) -> list[str]:
    """`python EXPERIMENT ARGS...`, to be run in `folder`. Raises: ConfigError when there is no such file."""
    if not (folder / words[0]).is_file():
        raise ConfigError(f"no experiment file '{words[0]}' in {folder}; submit with: {USAGE}")
    return [sys.executable, *words]


ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
MAX_STEM = 40  # of a name: letters of the experiment file's
MAX_NAMES = 10_000
POLL_S = 0.3


@dataclass(frozen=True)
class Submission:
    """One of them, as Ray knows it. exit_code: None while it runs, and where it was stopped or never began."""

    name: str
    status: str  # PENDING, RUNNING, or one of ENDED
    command: str
    exit_code: int | None
    began: float  # seconds since 1970
    ended: float | None
    message: str = ""  # Ray's, one line

    @property
    def is_over(self) -> bool:
        return self.status in ENDED

    @property
    def code(self) -> int:
        """The experiment's exit code as a command's own: 75 where it was stopped, 1 where it never began."""
        if self.exit_code is None:
            return Interrupted.exit_code if self.status == "STOPPED" else RaykdError.exit_code
        return self.exit_code if self.exit_code >= 0 else 128 - self.exit_code

    @property
    def how(self) -> str:
        """'failed with exit code 3'."""
        if self.exit_code is not None:
            return f"{self.status.lower()} with exit code {self.exit_code}"
        return self.status.lower() + (f" ({self.message})" if self.status == "FAILED" and self.message else "")

    def __str__(self) -> str:
        age = timedelta(seconds=round((self.ended or time.time()) - self.began))
        return f"{self.name:<20} {self.how:<26} {age}  {self.command}"


class Submissions:
    """Those of the job with `folder`, on this node. Calls raise RaykdError when Ray does not answer as it should."""

    def __init__(self, folder: JobFolder) -> None:
        self._logs = folder.ray_path / "session_latest" / "logs"
        self._ray = JobsApi(folder.facts()["dashboard"], folder.token())

    def all(self) -> list[Submission]:
        """In the order in which they came."""
        found = [_submission(details) for details in self._ray.list()]
        return sorted(found, key=lambda submission: submission.began)

    def find(self, name: str) -> Submission:
        """`name`, or the last one for ''. Raises ConfigError when it is not there."""
        found = self.all()
        if not found:
            raise ConfigError("nothing was sent to this job yet; send with: python -m raykd submit FILE [ARGS...]")
        if not name:
            return found[-1]
        for submission in found:
            if submission.name == name:
                return submission
        raise ConfigError(f"no '{name}' was sent to this job; there are: {', '.join(s.name for s in found)}")

    def send(self, words: Sequence[str], folder: Path) -> Submission:
        """Run the experiment file and arguments `words` in `folder`. Raises ConfigError when there is no such file."""
        command = experiment_command(words, folder)
        # Ray gives it to a shell: quoted, so that a word stays a word.
        environment = ["env", "PYTHONUNBUFFERED=1", "RAY_COLOR_PREFIX=0", *here("unblocked")]
        entrypoint = f"cd {shlex.quote(str(folder))} && exec {shlex.join([*environment, *command])}"
        stem = re.sub(r"[^\w.-]+", "-", Path(words[0]).stem)[:MAX_STEM]  # it becomes a file's name, and a word to type
        for number in range(1, MAX_NAMES):
            name = f"{stem}-{number}"
            if any(found.name == name for found in self.all()):
                continue
            try:
                self._ray.submit(name, entrypoint, {"command": shlex.join(words)})
            except RaykdError:
                if not any(found.name == name for found in self.all()):  # else another took it at this moment
                    raise
                continue
            return self.find(name)
        raise RaykdError(f"{MAX_NAMES} of {stem} were sent to this job; rename the file")

    def stop(self, name: str) -> bool:
        """Ask it to save and end, which takes a while; False where it has not yet begun, and cannot be asked."""
        return self._ray.stop(name)

    def copy_log(self, name: str, target: Path) -> None:
        """All that it has printed. Raises OSError where that cannot be written."""
        source = self._log(name)
        if source.is_file():
            shutil.copyfile(source, target)

    def printed(self, name: str, follow: bool) -> Iterator[bytes]:
        """What it has printed, and with `follow` what it prints until its end."""
        log = self._log(name)
        while follow and not log.is_file() and not self.find(name).is_over:
            time.sleep(POLL_S)
        if not log.is_file():
            return
        with log.open("rb") as file:
            over = not follow
            while True:
                if text := file.read(1 << 16):
                    yield text
                elif over:
                    return
                else:
                    over = self.find(name).is_over  # and then read what came until then
                    time.sleep(POLL_S)

    def _log(self, name: str) -> Path:
        return self._logs / f"job-driver-{name}.log"


def _submission(details: dict[str, Any]) -> Submission:
    return Submission(
        name=details["submission_id"],
        status=details["status"],
        command=(details.get("metadata") or {}).get("command", details["entrypoint"]),
        exit_code=details.get("driver_exit_code"),
        began=(details.get("start_time") or 0) / 1000,
        ended=details["end_time"] / 1000 if details.get("end_time") else None,
        message=(details.get("message") or "").strip().partition("\n")[0],
    )
