"""The driver, which is the process of the experiment: start it, forward signals to it, and return its exit code."""

import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from raykd.cluster.ray_process import stop
from raykd.errors import Interrupted, RaykdError

WARNINGS = (signal.SIGUSR1, signal.SIGUSR2)  # users may submit with --signal=B:USR1@120; a driver handles SIGUSR2
# SIGUSR2 (--signal=B:USR2@120) starts no timer here: Slurm sends SIGTERM at the time limit.
TERM_GRACE_S = 20  # time to save after SIGTERM, if the caller passes no other
POLL_S = 0.05


class Signals:
    """Record SIGTERM, and SIGUSR1 and SIGUSR2 as SIGUSR2, within the block, instead of ending this process.

    is_warned: whether Slurm has signaled the job's steps instead of this process; recorded as SIGUSR2.
    """

    def __init__(self) -> None:
        self.received: list[signal.Signals] = []
        self.is_warned: Callable[[], bool] = lambda: False
        self.has_been_warned = False
        self._num_returned = 0

    def __enter__(self) -> "Signals":
        self._previous = {number: signal.signal(number, self._record) for number in (signal.SIGTERM, *WARNINGS)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _record(self, number: int, _frame: object) -> None:
        self.received.append(signal.SIGUSR2 if number in WARNINGS else signal.Signals(number))

    def new_signals(self) -> list[signal.Signals]:
        """Return the signals since the last call, SIGUSR2 only once: a second one would end the driver."""
        self._check_warning()
        first, numbers = self._num_returned, list(self.received)
        self._num_returned = len(numbers)
        new = list(enumerate(numbers))[first:]
        return [number for index, number in new if number == signal.SIGTERM or number not in numbers[:index]]

    def check(self) -> None:
        """Raise Interrupted if a signal came before the driver was started."""
        self._check_warning()
        if self.received:
            source = "Slurm's SIGTERM to its steps" if self.has_been_warned else self.received[0].name
            raise Interrupted(f"interrupted by {source} while Ray was starting")

    def _check_warning(self) -> None:
        """Record a signal to the steps, unless this process received one first, which may have ended the steps too."""
        if not self.received and self.is_warned():
            self.has_been_warned = True
            self._record(signal.SIGUSR2, None)


def run_driver(
    command: Sequence[str],
    environment: Mapping[str, str],
    folder: Path,
    signals: Signals,
    head_failure: Callable[[], str],
    save_time_s: Callable[[], float] = lambda: TERM_GRACE_S,
) -> int:
    """Run the driver in `folder` and return its return code, which is negative if a signal killed it.

    head_failure: returns why Ray's head has ended, or '' while it runs. save_time_s: called at SIGTERM; returns the
    seconds that the driver may save from then on. Raises RaykdError if the head ends first, because the driver would
    wait forever.
    """
    driver = subprocess.Popen(command, env=environment, cwd=folder)
    deadline = float("inf")
    try:
        while driver.poll() is None:
            for number in signals.new_signals():  # a second SIGTERM, at the end of a grace time, sets a new limit
                driver.send_signal(number)
                if number == signal.SIGTERM:
                    since = time.monotonic()  # save_time_s asks Slurm, which may take seconds
                    deadline = min(deadline, since + save_time_s())
            if time.monotonic() > deadline:
                driver.kill()
            if not signals.received and (failure := head_failure()):
                raise RaykdError(failure)
            time.sleep(POLL_S)
    finally:
        stop(driver, TERM_GRACE_S)
    return driver.returncode


def exit_code(returncode: int, was_interrupted: bool) -> int:
    """Return the driver's exit code. If a signal killed it: 75 if the job was interrupted, otherwise 128 + number."""
    if returncode >= 0:
        return returncode
    return Interrupted.exit_code if was_interrupted else 128 - returncode
