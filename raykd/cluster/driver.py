"""The experiment's own process: runs it, hands signals on to it, and turns its end into an exit code."""

import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from raykd.cluster.process import stop
from raykd.errors import Interrupted, RaykdError

FORWARDED = (signal.SIGTERM, signal.SIGUSR2)
# After SIGTERM Slurm waits KillWait (30 s by default) and kills; what is left of it is for the teardown.
# After SIGUSR2 (--signal=B:USR2@120) the driver may take its time: SIGTERM follows at the limit.
TERM_GRACE_S = 20
POLL_S = 0.05


class Signals:
    """Notes SIGTERM and SIGUSR2 instead of dying of them, from entering the block to leaving it."""

    def __init__(self) -> None:
        self.received: list[signal.Signals] = []
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
        """Those that came since the last call."""
        new = self.received[self._num_taken :]
        self._num_taken += len(new)
        return new

    def check(self) -> None:
        """Raises: Interrupted when one came: there is no driver yet that could end well."""
        if self.received:
            raise Interrupted(f"cut off by {self.received[0].name} while Ray was starting")


def run_driver(
    command: Sequence[str],
    environment: Mapping[str, str],
    folder: Path,
    signals: Signals,
    head_failure: Callable[[], str],
) -> int:
    """Run it in `folder` until it ends, and return the job's exit code: 0-255, 75 when cut off.

    `head_failure` says why Ray's head is gone, '' while it is there. Raises: RaykdError when the head goes
    first, since the driver would wait for it for ever.
    """
    driver = subprocess.Popen(command, env=environment, cwd=folder)
    deadline = float("inf")
    try:
        while driver.poll() is None:
            for number in signals.take():
                driver.send_signal(number)
                if number == signal.SIGTERM:
                    deadline = min(deadline, time.monotonic() + TERM_GRACE_S)
            if time.monotonic() > deadline:
                driver.kill()
            if not signals.received and (failure := head_failure()):
                raise RaykdError(failure)
            time.sleep(POLL_S)
    finally:
        stop(driver, TERM_GRACE_S)
    return exit_code(driver.returncode, cut_off=bool(signals.received))


def exit_code(returncode: int, cut_off: bool) -> int:
    """The driver's own; where a signal killed it, 75 if the job was being cut off and 128 + number if not."""
    if returncode >= 0:
        return returncode
    return Interrupted.exit_code if cut_off else 128 - returncode
