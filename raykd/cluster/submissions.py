"""Experiments that are submitted to a job's running Ray cluster. Each is a Ray job, a process on the head's node.

Ray is contacted only on that node (jobs_api.py). The experiments' output is read from the files that Ray writes there,
because it may be large and contain any bytes.
"""

import re
import shlex
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from raykd.cluster.container import python
from raykd.cluster.job_folder import JobFolder
from raykd.cluster.jobs_api import JobsApi
from raykd.cluster.ray_start import module_command
from raykd.cluster.slurm_commands import SCRIPT
from raykd.disk.lookup import is_file
from raykd.errors import COMMAND, ConfigError, Interrupted, RaykdError
from raykd.spec.bundled import find_experiment

PACK = "pack"  # the command of raykd that runs in a job like an experiment, since it uses all nodes
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
MAX_STEM = 40  # characters of the experiment file's name in a submission's name
MAX_NAMES = 10_000
POLL_S = 0.3


def experiment_command(experiment: Sequence[str], folder: Path) -> list[str]:
    """Return `python EXPERIMENT ARGS...`, to be run in `folder`, or `python -m raykd pack ARGS...`.

    experiment: a file or the name of an experiment, and its arguments. Raises ConfigError if there is no such file.
    """
    if experiment[0] == PACK:
        return [python(), "-m", "raykd", *experiment]
    file = find_experiment(experiment[0], folder)
    if not is_file(folder / file):
        raise ConfigError(
            f"experiment file '{file}' does not exist in {folder}; submit with: sbatch {SCRIPT} "
            "experiments/distill_cnn.py [ARGS...]"
        )
    return [python(), str(file), *experiment[1:]]


@dataclass(frozen=True)
class Submission:
    """A submitted experiment. exit_code: None while it runs, and if it was stopped or never started."""

    name: str
    status: str  # PENDING, RUNNING, or one of ENDED
    command: str
    exit_code: int | None
    started: float  # seconds since 1970
    ended: float | None
    message: str = ""  # Ray's, one line

    @property
    def is_over(self) -> bool:
        return self.status in ENDED

    @property
    def code(self) -> int:
        """The exit code for a command that follows the experiment: 75 if it was stopped, 1 if it never started."""
        if self.exit_code is None:
            return Interrupted.exit_code if self.status == "STOPPED" else RaykdError.exit_code
        return self.exit_code if self.exit_code >= 0 else 128 - self.exit_code

    @property
    def outcome(self) -> str:
        """The status in words, such as 'failed with exit code 3'."""
        if self.exit_code is not None:
            return f"{self.status.lower()} with exit code {self.exit_code}"
        return self.status.lower() + (f" ({self.message})" if self.status == "FAILED" and self.message else "")

    def __str__(self) -> str:
        age = timedelta(seconds=round((self.ended or time.time()) - self.started))
        return f"{self.name:<20} {self.outcome:<26} {age}  {self.command}"


class Submissions:
    """The experiments of the job with `folder` on this node. Methods raise RaykdError if a request to Ray fails."""

    def __init__(self, folder: JobFolder) -> None:
        self._logs = folder.ray_path / "session_latest" / "logs"
        self._ray = JobsApi(folder.facts()["dashboard"], folder.token())

    def all(self) -> list[Submission]:
        """Return all experiments in the order of their submission."""
        return sorted(map(_submission, self._ray.list()), key=lambda submission: submission.started)

    def find(self, name: str) -> Submission:
        """Return the experiment `name`, or the last one for ''. Raises ConfigError if there is none."""
        submissions = self.all()
        if not submissions:
            raise ConfigError(
                f"no experiment was submitted to this job yet; submit one with: {COMMAND} submit FILE [ARGS...]"
            )
        if not name:
            return submissions[-1]
        for submission in submissions:
            if submission.name == name:
                return submission
        names = ", ".join(submission.name for submission in submissions)
        raise ConfigError(f"no experiment '{name}' was submitted to this job; there are: {names}")

    def submit(self, experiment: Sequence[str], folder: Path) -> Submission:
        """Run an experiment (its file and arguments) in `folder`. Raises ConfigError if the file does not exist."""
        command = experiment_command(experiment, folder)
        # Ray passes the entrypoint to a shell, so every word is quoted.
        environment = ["env", "PYTHONUNBUFFERED=1", "RAY_COLOR_PREFIX=0", *module_command("unblocked")]
        entrypoint = f"cd {shlex.quote(str(folder))} && exec {shlex.join([*environment, *command])}"
        stem = re.sub(r"[^\w.-]+", "-", Path(experiment[0]).stem)[:MAX_STEM]  # in a file's name; typed by users
        taken = self._names()
        for name in (f"{stem}-{number}" for number in range(1, MAX_NAMES)):
            if name in taken:
                continue
            try:
                self._ray.submit(name, entrypoint, {"command": shlex.join(experiment)})
            except RaykdError:
                taken = self._names()
                if name not in taken:  # otherwise another command took the name at this moment
                    raise
                continue
            return self.find(name)
        raise RaykdError(f"this job has {MAX_NAMES} experiments named {stem}; rename the file")

    def _names(self) -> set[str]:
        return {submission.name for submission in self.all()}

    def stop(self, name: str) -> bool:
        """Request that an experiment saves and ends, which takes time. Return False if it has not started yet."""
        return self._ray.stop(name)

    def copy_log(self, name: str, target: Path) -> None:
        """Copy all output until now to `target`. Raises OSError if it cannot be written."""
        source = self._log(name)
        if is_file(source):
            shutil.copyfile(source, target)

    def output(self, name: str, follow: bool) -> Iterator[bytes]:
        """Yield an experiment's output, with `follow` until its end."""
        log = self._log(name)
        while follow and not is_file(log) and not self.find(name).is_over:
            time.sleep(POLL_S)
        if not is_file(log):
            return
        with log.open("rb") as file:
            is_over = not follow
            while True:
                if chunk := file.read(1 << 16):
                    yield chunk
                elif is_over:
                    return
                else:
                    is_over = self.find(name).is_over  # then read what was written before the end
                    time.sleep(POLL_S)

    def _log(self, name: str) -> Path:
        return self._logs / f"job-driver-{name}.log"


def _submission(details: dict[str, Any]) -> Submission:
    return Submission(
        name=details["submission_id"],
        status=details["status"],
        command=(details.get("metadata") or {}).get("command", details["entrypoint"]),
        exit_code=details.get("driver_exit_code"),
        started=(details.get("start_time") or 0) / 1000,
        ended=details["end_time"] / 1000 if details.get("end_time") else None,
        message=(details.get("message") or "").strip().partition("\n")[0],
    )
