"""The signals at which a command saves and stops: Ctrl-C, and those that Slurm sends before it ends a job."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)  # the last is Slurm's signal before the time limit
SAME_SIGNAL_S = 2.0  # one scancel can reach a process twice


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """Set the event at the first of STOP_SIGNALS, upon which runs save and stop. A later signal ends the command.

    Only the main thread receives signals. In another thread of a script the event is never set.
    """
    if threading.current_thread() is not threading.main_thread():
        yield threading.Event()
        return
    stopped, stopped_at = threading.Event(), 0.0

    def stop(number: int, frame: object) -> None:
        nonlocal stopped_at
        if not stopped.is_set():
            stopped.set()
            stopped_at = time.monotonic()
        elif time.monotonic() - stopped_at > SAME_SIGNAL_S:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in STOP_SIGNALS}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
