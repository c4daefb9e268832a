"""Protect a command's private Ray cluster from signals to all processes of the command.

A closed terminal, `timeout`, `kill %1`, and the time limits of other batch systems than Slurm signal every process of a
group. That would end Ray's processes while the runs save. So they start with these signals blocked, and only the
command receives them. Ray also ends its processes by SIGTERM; `quick_end` ends those that block it.
"""

import os
import signal
import threading
from collections.abc import Iterator, Set
from contextlib import contextmanager, suppress
from pathlib import Path

from raykd.cluster.descendants import children_of, kill_tree

GROUP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGHUP})  # Ray itself blocks SIGINT in its processes
POLL_S = 0.01


@contextmanager
def blocked_in_children(signals: Set[signal.Signals] = GROUP_SIGNALS) -> Iterator[None]:
    """Block `signals` in the processes that the block starts, which inherit what this thread blocks.

    For this process they are only delayed until the end of the block.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def quick_end() -> Iterator[None]:
    """Kill each child of this process that gets a SIGTERM within the block and blocks it, with its descendants.

    Ray would wait a second for each before it kills it. Children whose SIGTERM is older than the block are left to Ray.
    On systems without /proc all of them are.
    """
    children = {process for process in children_of(os.getpid()) if not _has_pending_sigterm(process)}
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(POLL_S):
            for process in [process for process in children if _has_pending_sigterm(process)]:
                children.remove(process)
                kill_tree(process)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


@contextmanager
def killed_on_error(folder: str) -> Iterator[None]:
    """If the block raises, kill the children that it started and that have `folder` in their command line.

    On systems without /proc none is found.
    """
    before = set(children_of(os.getpid()))
    try:
        yield
    except BaseException:
        for process in set(children_of(os.getpid())) - before:
            if folder in _command_line(process):
                kill_tree(process)
        raise


def _command_line(process: int) -> str:
    """Return the command line of a process, '' if it has ended."""
    with suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


def _has_pending_sigterm(process: int) -> bool:
    """Return whether a process has received a SIGTERM that it blocks."""
    with suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith("ShdPnd:"):
                return bool(int(line.split()[1], 16) >> (signal.SIGTERM - 1) & 1)
    return False
