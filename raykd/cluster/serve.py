"""The driver of a job without an experiment: it keeps the job's Ray cluster up for the experiments that users submit.

    python -m raykd.cluster.serve JOB_ID LOGS        (run by boot.py)

It reports each experiment in the job's log and copies its output to LOGS-<name>.out. At the signal before the time
limit it stops all running experiments and ends: with exit code 75 if there were any, otherwise with 0.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from raykd.cluster.job_folder import JobFolder, folder_path
from raykd.cluster.submissions import Submission, Submissions
from raykd.errors import COMMAND, Interrupted, RaykdError

POLL_S = 2.0
STOPPING_POLL_S = 0.2
COPY_LOGS_EVERY_S = 30.0  # Ray's copies on the node are removed with the job
PATIENCE_S = 60.0  # how long requests to Ray's dashboard may fail; the experiments do not need it
STOPPING_PATIENCE_S = 15.0  # the same during the stop: scancel also ends the dashboard, which is then started again


class Server:
    """Reports and stops the experiments of a job. logs: the beginning of the paths of their logs."""

    def __init__(self, submissions: Submissions, logs: str) -> None:
        self._submissions, self._logs = submissions, logs
        self._reported: dict[str, Submission] = {}
        self._copied: dict[str, float] = {}
        self.stopped: set[str] = set()

    def report_changes(self) -> None:
        """Print what changed since the last call, and copy the logs. Raises RaykdError if Ray does not answer."""
        for submission in self._submissions.all():
            name, before = submission.name, self._reported.get(submission.name)
            if before is None:
                _print(f"{name} submitted: {submission.command}")
            if submission.is_over and not (before and before.is_over):
                _print(f"{name} {submission.outcome}; {self._copy_log(name)}")
            elif not submission.is_over and time.monotonic() - self._copied.get(name, 0.0) > COPY_LOGS_EVERY_S:
                self._copy_log(name)
            self._reported[name] = submission

    def _copy_log(self, name: str) -> str:
        """Copy an experiment's output, and return where it is or why it is lost."""
        path = Path(f"{self._logs}-{name}.out")
        self._copied[name] = time.monotonic()
        try:
            self._submissions.copy_log(name, path)
        except OSError as error:
            return f"its output will be lost with the job: {error}"
        return f"its output is in {path}"

    @property
    def running(self) -> list[Submission]:
        return [submission for submission in self._reported.values() if not submission.is_over]

    def stop_all(self) -> None:
        """Stop every running experiment once. One that is still starting is stopped at a later call."""
        for submission in self.running:
            if submission.name not in self.stopped and self._submissions.stop(submission.name):
                self.stopped.add(submission.name)


def serve(server: Server, stop: threading.Event) -> None:
    """Serve until `stop` is set and all experiments have ended.

    Raises RaykdError if all requests to Ray fail for PATIENCE_S, or for STOPPING_PATIENCE_S once `stop` is set.
    """
    answered = time.monotonic()
    while True:
        is_stopping = stop.wait(STOPPING_POLL_S if stop.is_set() else POLL_S)
        try:
            server.report_changes()
            if is_stopping:
                server.stop_all()
                if not server.running:
                    return
            answered = time.monotonic()
        except RaykdError:
            if time.monotonic() - answered > (STOPPING_PATIENCE_S if is_stopping else PATIENCE_S):
                raise


def main(arguments: Sequence[str]) -> int:
    """Serve until SIGUSR2 or SIGTERM comes and all experiments have ended. Return the exit code."""
    stop = threading.Event()
    for number in (signal.SIGUSR2, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    job_id, logs = arguments
    try:
        server = Server(Submissions(JobFolder(folder_path(int(job_id), os.environ))), logs)
        _print(f"ready for experiments; submit one with: {COMMAND} submit --job {job_id} FILE [ARGS...]")
        serve(server, stop)
    except RaykdError as error:
        print(f"raykd: {error}", file=sys.stderr, flush=True)
        return Interrupted.exit_code if stop.is_set() else error.exit_code
    if server.stopped:
        _print(f"stopped before the job's end: {', '.join(sorted(server.stopped))}; submit them again to resume")
    return Interrupted.exit_code if server.stopped else 0


def _print(text: str) -> None:
    with suppress(OSError):  # a full disk must not end the experiments
        print(f"raykd: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
