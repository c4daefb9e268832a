"""Experiments sent to a job's Ray while it runs: each a Ray job, which is a process on the head's node.

Asked for on that node only, of the dashboard at 127.0.0.1, with the job's token (RAY_AUTH_TOKEN_PATH).
"""

import asyncio
import logging
import re
import shlex
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from raykd.cluster.experiment_command import experiment_command
from raykd.errors import ConfigError, RaykdError

ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
MAX_NAMES = 1000


@dataclass(frozen=True)
class Submission:
    """One of them, as Ray knows it. exit_code: None while it runs, and where it was stopped."""

    name: str
    status: str  # PENDING, RUNNING, or one of ENDED
    command: str
    exit_code: int | None
    began: float  # seconds since 1970
    ended: float | None

    @property
    def is_over(self) -> bool:
        return self.status in ENDED

    def __str__(self) -> str:
        age = timedelta(seconds=round((self.ended or time.time()) - self.began))
        code = f", exit code {self.exit_code}" if self.exit_code is not None else ""
        return f"{self.name:<20} {self.status.lower() + code:<24} {age}  {self.command}"


class Submissions:
    """Those of one job. Raises RaykdError when Ray does not answer."""

    def __init__(self, dashboard_port: int) -> None:
        from ray.job_submission import JobSubmissionClient

        logging.getLogger("ray").setLevel(logging.WARNING)
        try:
            self._client: Any = JobSubmissionClient(f"http://127.0.0.1:{dashboard_port}")
        except (ConnectionError, RuntimeError) as error:
            raise RaykdError(f"the job's Ray does not answer: {str(error).splitlines()[0]}") from None

    def all(self) -> list[Submission]:
        """In the order in which they came."""
        found = [_submission(details) for details in self._client.list_jobs() if details.submission_id]
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
        environment = ["env", "PYTHONUNBUFFERED=1", "RAY_COLOR_PREFIX=0"]
        entrypoint = f"cd {shlex.quote(str(folder))} && exec {shlex.join([*environment, *command])}"
        names = {submission.name for submission in self.all()}
        stem = re.sub(r"[^\w.-]+", "-", Path(words[0]).stem)  # it becomes a file's name, and a word to type
        name = next(new for number in range(1, MAX_NAMES) if (new := f"{stem}-{number}") not in names)
        self._client.submit_job(entrypoint=entrypoint, submission_id=name, metadata={"command": shlex.join(words)})
        return self.find(name)

    def stop(self, name: str) -> None:
        """Ask it to save and end, which takes a while."""
        self._client.stop_job(name)

    def log(self, name: str) -> str:
        """All that it has printed."""
        return self._client.get_job_logs(name)

    def follow(self, name: str) -> Iterator[str]:
        """What it has printed, and prints until its end."""
        lines = self._client.tail_job_logs(name)
        with asyncio.Runner() as runner:
            while (text := runner.run(anext(lines, None))) is not None:
                yield text

    def wait(self, name: str) -> Submission:
        """Until it is over, which is a moment after its log is."""
        while not (submission := self.find(name)).is_over:
            time.sleep(0.2)
        return submission


def _submission(details: Any) -> Submission:
    return Submission(
        name=details.submission_id,
        status=str(details.status.value),
        command=(details.metadata or {}).get("command", details.entrypoint),
        exit_code=details.driver_exit_code,
        began=details.start_time / 1000,
        ended=details.end_time / 1000 if details.end_time else None,
    )
