"""A job that names no experiment keeps its Ray for those that are sent to it: this runs in the driver's place.

    python -m raykd.cluster.keeper JOB_ID DASHBOARD_PORT LOGS        (boot.py does)

Tells of each experiment in the job's log, and leaves what it printed in LOGS-<name>.out. At the warning before the
time limit it stops those that run, which save, and ends: 75 when there were any, 0 when not.
"""

import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from raykd.atomic import write_bytes
from raykd.cluster.submissions import Submission, Submissions
from raykd.errors import Interrupted, RaykdError

POLL_S = 2.0
COPY_LOGS_EVERY_S = 30.0  # Ray has them on the node, and they go with it
STOPPING_POLL_S = 0.2


class Keeper:
    """`logs` is the beginning of the paths that logs are left at."""

    def __init__(self, job_id: str, submissions: Submissions, logs: str) -> None:
        self._job_id, self._submissions, self._logs = job_id, submissions, logs
        self._known: dict[str, Submission] = {}
        self._copied: dict[str, float] = {}
        self.stopped: list[str] = []

    def look(self) -> None:
        """Tell what is new."""
        for found in self._submissions.all():
            before = self._known.get(found.name)
            if before is None:
                _say(f"{found.name} came: {found.command}")
            if found.is_over and not (before and before.is_over):
                code = "" if found.exit_code is None else f" with exit code {found.exit_code}"
                _say(f"{found.name} {found.status.lower()}{code}; what it printed is in {self._copy_log(found)}")
            elif not found.is_over and time.monotonic() - self._copied.get(found.name, 0.0) > COPY_LOGS_EVERY_S:
                self._copy_log(found)
            self._known[found.name] = found

    def _copy_log(self, found: Submission) -> Path:
        path = Path(f"{self._logs}-{found.name}.out")
        write_bytes(path, self._submissions.log(found.name).encode())
        self._copied[found.name] = time.monotonic()
        return path

    @property
    def running(self) -> list[Submission]:
        return [found for found in self._known.values() if not found.is_over]

    def stop_all(self) -> None:
        """Ask those that run to save and end."""
        for found in self.running:
            self._submissions.stop(found.name)
            self.stopped.append(found.name)


def main(words: Sequence[str]) -> int:
    """Until SIGUSR2 or SIGTERM comes and what runs has ended."""
    stop = threading.Event()
    for number in (signal.SIGUSR2, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    job_id, port, logs = words
    try:
        keeper = Keeper(job_id, Submissions(int(port)), logs)
        _say(f"no experiment was named: this Ray is kept; send to it with: python -m raykd submit --job {job_id} FILE")
        while not stop.wait(POLL_S):
            keeper.look()
        keeper.look()
        keeper.stop_all()
        while keeper.running:
            threading.Event().wait(STOPPING_POLL_S)
            keeper.look()
    except RaykdError as error:
        print(f"raykd: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    if keeper.stopped:
        _say(f"cut off, and saved: {', '.join(keeper.stopped)}; sent again, each goes on where it stopped")
    return Interrupted.exit_code if keeper.stopped else 0


def _say(text: str) -> None:
    print(f"raykd: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
