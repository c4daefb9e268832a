"""The signals at which a command saves and stops: Ctrl-C, a closed terminal, and what Slurm sends before a job ends."""

import errno
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from rich.console import Console

from raykd.orchestration.progress import log

# SIGHUP: the terminal was closed, or the connection to it was lost. SIGUSR2: Slurm's signal before the time limit.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)
SAME_SIGNAL_S = 2.0  # one scancel can reach a process twice


@contextmanager
def stop_signals(console: Console) -> Iterator[threading.Event]:
    """Set the event at the first of STOP_SIGNALS, upon which runs save and stop. A later signal ends the command.

    The first signal is logged to `console` immediately, because saving takes seconds. SIGHUP never ends the command
    without saving, and stays ignored where it was, as by `nohup`.

    Only the main thread receives signals. In another thread of a script the event is never set.
    """
    if threading.current_thread() is not threading.main_thread():
        yield threading.Event()
        return
    stopped, stopped_at = threading.Event(), 0.0

    def stop(number: int, frame: object) -> None:
        nonlocal stopped_at
        if number == signal.SIGHUP:
            _leave_closed_terminal()
        if not stopped.is_set():
            stopped.set()
            stopped_at = time.monotonic()
            # In another thread: the signal may have interrupted the main thread while it prints.
            threading.Thread(target=log, args=(console, stopping_line(number)), daemon=True).start()
        elif number != signal.SIGHUP and time.monotonic() - stopped_at > SAME_SIGNAL_S:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in _handled_signals()}
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
    before = {number: signal.signal(number, lambda number, _: arrived.append(number)) for number in _handled_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for number in arrived:
        signal.raise_signal(number)


def _handled_signals() -> list[signal.Signals]:
    """Return STOP_SIGNALS, without SIGHUP if this process ignores it."""
    is_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [number for number in STOP_SIGNALS if number != signal.SIGHUP or not is_ignored]


def _leave_closed_terminal() -> None:
    """Discard what this process reads and prints from now on, where a terminal that is closed would raise an error."""
    for descriptor in (0, 1, 2):
        try:
            os.write(descriptor, b"")
        except OSError as error:
            if error.errno == errno.EIO:
                with suppress(OSError):
                    os.dup2(os.open(os.devnull, os.O_RDWR), descriptor)


def stopping_line(number: int) -> str:
    """Return the line that is logged at the first signal."""
    if number == signal.SIGHUP:
        return "SIGHUP: the terminal is closed; the command saves and stops"
    if number == signal.SIGUSR2:
        return "SIGUSR2: Slurm will end the job soon; the command saves and stops"
    name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
    return f"{name}: the command saves and stops; a second {name} ends it without saving"
