"""The signals at which a command saves and stops: Ctrl-C, and those that Slurm sends before it ends a job."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from raykd.orchestration.progress import log

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)  # the last is Slurm's signal before the time limit
SAME_SIGNAL_S = 2.0  # one scancel can reach a process twice


@contextmanager
def stop_signals(console: Console) -> Iterator[threading.Event]:
    """Set the event at the first of STOP_SIGNALS, upon which runs save and stop. A later signal ends the command.

    The first signal is logged to `console` immediately, because saving takes seconds.

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
            # In another thread: the signal may have interrupted the main thread while it prints.
            threading.Thread(target=log, args=(console, stopping_line(number)), daemon=True).start()
        elif time.monotonic() - stopped_at > SAME_SIGNAL_S:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in STOP_SIGNALS}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def delayed_signals() -> Iterator[None]:
    """Delay the handling of STOP_SIGNALS that arrive inside the block until its end.

    The handlers are replaced, since a signal that one thread blocks reaches the process through another thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    before = {number: signal.signal(number, lambda number, _: arrived.append(number)) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for number in arrived:
        signal.raise_signal(number)


def stopping_line(number: int) -> str:
    """Return the line that is logged at the first signal."""
    name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
    return f"{name}: the command saves and stops; a second {name} ends it without saving"
