"""The experiment's own process: runs it, hands signals on to it, and turns its end into an exit code."""

import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from raykd.cluster.ray_process import stop
from raykd.errors import Interrupted, RaykdError

FORWARDED = (signal.SIGTERM, signal.SIGUSR2)
# After SIGUSR2 (--signal=B:USR2@120) the driver may take its time: SIGTERM follows at the limit.
TERM_GRACE_S = 20  # after SIGTERM, where Slurm's KillWait is not asked for
POLL_S = 0.05


class Signals:
    """Notes SIGTERM and SIGUSR2 instead of dying of them, from entering the block to leaving it.

    `is_warned` reports a warning that comes as no signal to this process; it is noted as SIGUSR2.
    """

    def __init__(self) -> None:
        self.received: list[signal.Signals] = []
        self.is_warned: Callable[[], bool] = lambda: False
        self.has_been_warned = False
        self._num_taken = 0

    def __enter__(self) -> "Signals":
        self._previous = {number: signal.signal(number, self._note) for number in FORWARDED}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: object) -> None:
        self.received.append(signal.Signals(number))

    def take(self) -> list[signal.Signals]:
        """Return the signals since the last call. SIGUSR2 is returned once, since a second one ends the driver."""
        self._look()
        first, numbers = self._num_taken, list(self.received)
        self._num_taken = len(numbers)
        is_new = [number == signal.SIGTERM or number not in numbers[:place] for place, number in enumerate(numbers)]
        return [number for place, number in enumerate(numbers) if place >= first and is_new[place]]

    def check(self) -> None:
        """Raises: Interrupted when one came: there is no driver yet that could end well."""
        self._look()
        if self.received:
            source = "Slurm's SIGTERM to its steps" if self.has_been_warned else self.received[0].name
            raise Interrupted(f"interrupted by {source} while Ray was starting")

    def _look(self) -> None:
        """A warning after a signal is ignored, because SIGTERM to this process reaches all of the job's processes."""
        if not self.received and self.is_warned():
            self.has_been_warned = True
            self._note(signal.SIGUSR2, None)


def run_driver(
    command: Sequence[str],
    environment: Mapping[str, str],
    folder: Path,
    signals: Signals,
    head_failure: Callable[[], str],
    save_time_s: Callable[[], float] = lambda: TERM_GRACE_S,
) -> int:
    """Run it in `folder` until it ends, and return its return code, negative where a signal killed it.

    `head_failure` says why Ray's head is gone, '' while it is there. `save_time_s` is asked at SIGTERM how long the
    driver may take from there. Raises: RaykdError when the head ends first, since the driver would wait for ever.
    """
    driver = subprocess.Popen(command, env=environment, cwd=folder)
    deadline = float("inf")
    try:
        while driver.poll() is None:
            for number in signals.take():  # SIGTERM again, at the end of a grace time, has a limit of its own
                driver.send_signal(number)
                if number == signal.SIGTERM:
                    since = time.monotonic()  # the answer may take a while
                    deadline = min(deadline, since + save_time_s())
            if time.monotonic() > deadline:
                driver.kill()
            if not signals.received and (failure := head_failure()):
                raise RaykdError(failure)
            time.sleep(POLL_S)
    finally:
        stop(driver, TERM_GRACE_S)
    return driver.returncode


def exit_code(returncode: int, cut_off: bool) -> int:
    """The driver's own; where a signal killed it, 75 if the job was being cut off and 128 + number if not."""
    if returncode >= 0:
        return returncode
    return Interrupted.exit_code if cut_off else 128 - returncode
