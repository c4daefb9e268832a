"""A job that names no experiment keeps its Ray for those that are sent to it: this runs in the driver's place.

    python -m raykd.cluster.serve JOB_ID LOGS        (boot.py does)

Tells of each experiment in the job's log, and leaves what it printed in LOGS-<name>.out. At the warning before the
time limit it stops those that run, and ends: 75 when there were any, 0 when not.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from raykd.cluster.job_folder import JobFolder, folder_path
from raykd.cluster.submissions import Submission, Submissions
from raykd.errors import Interrupted, RaykdError

POLL_S = 2.0
STOPPING_POLL_S = 0.2
COPY_LOGS_EVERY_S = 30.0  # Ray has them on the node, and they go with it
PATIENCE_S = 60.0  # for a dashboard that does not answer; the experiments themselves do not need it
STOPPING_PATIENCE_S = 15.0  # scancel ends the dashboard too, which is then started again


class Keeper:
    """`logs` is the beginning of the paths that logs are left at."""

    def __init__(self, submissions: Submissions, logs: str) -> None:
        self._submissions, self._logs = submissions, logs
        self._known: dict[str, Submission] = {}
        self._copied: dict[str, float] = {}
        self.stopped: set[str] = set()

    def look(self) -> None:
        """Tell what is new. Raises RaykdError when Ray does not answer."""
        for found in self._submissions.all():
            before = self._known.get(found.name)
            if before is None:
                _say(f"{found.name} came: {found.command}")
            if found.is_over and not (before and before.is_over):
                _say(f"{found.name} {found.how}{self._copy_log(found)}")
            elif not found.is_over and time.monotonic() - self._copied.get(found.name, 0.0) > COPY_LOGS_EVERY_S:
                self._copy_log(found)
            self._known[found.name] = found

    def _copy_log(self, found: Submission) -> str:
        """Where what it printed is now, or why it is not."""
        path = Path(f"{self._logs}-{found.name}.out")
        self._copied[found.name] = time.monotonic()
        try:
            self._submissions.copy_log(found.name, path)
        except OSError as error:
            return f"; what it printed is lost with the job: {error}"
        return f"; what it printed is in {path}"

    @property
    def running(self) -> list[Submission]:
        return [found for found in self._known.values() if not found.is_over]

    def stop_all(self) -> None:
        """Ask those that run to save and end, once each; one that is about to begin is asked when it has begun."""
        for found in self.running:
            if found.name not in self.stopped and self._submissions.stop(found.name):
                self.stopped.add(found.name)


def keep(keeper: Keeper, stop: threading.Event) -> None:
    """Until `stop` is set and what runs has ended. Raises RaykdError when Ray is silent for PATIENCE_S."""
    answered = time.monotonic()
    while True:
        stopping = stop.wait(STOPPING_POLL_S if stop.is_set() else POLL_S)
        try:
            keeper.look()
            if stopping:
                keeper.stop_all()
                if not keeper.running:
                    return
            answered = time.monotonic()
        except RaykdError:
            if time.monotonic() - answered > (STOPPING_PATIENCE_S if stopping else PATIENCE_S):
                raise


def main(words: Sequence[str]) -> int:
    """Until SIGUSR2 or SIGTERM comes and what runs has ended."""
    stop = threading.Event()
    for number in (signal.SIGUSR2, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    job_id, logs = words
    try:
        keeper = Keeper(Submissions(JobFolder(folder_path(int(job_id), os.environ))), logs)
        _say(f"no experiment was named: this Ray is kept; send to it with: python -m raykd submit --job {job_id} FILE")
        keep(keeper, stop)
    except RaykdError as error:
        print(f"raykd: {error}", file=sys.stderr, flush=True)
        return Interrupted.exit_code if stop.is_set() else error.exit_code
    if keeper.stopped:
        _say(f"stopped before the job's end: {', '.join(sorted(keeper.stopped))}; send them again to go on")
    return Interrupted.exit_code if keeper.stopped else 0


def _say(text: str) -> None:
    print(f"raykd: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
