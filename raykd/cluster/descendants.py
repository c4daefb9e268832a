"""Find and kill the descendants of a process. On systems without /proc none is found."""

import os
import signal
from contextlib import suppress
from pathlib import Path


def children_of(process: int) -> list[int]:
    """Return the pids of a process's children; none if the process has ended."""
    with suppress(OSError):
        lists = [path.read_text() for path in Path(f"/proc/{process}/task").glob("*/children")]
        return [int(word) for line in lists for word in line.split()]
    return []


def kill_tree(process: int) -> None:
    """Kill a process and then its descendants, which it could start again."""
    children = children_of(process)
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
    for child in children:
        kill_tree(child)


def kill_descendants() -> None:
    """Kill all descendants of this subreaper and wait for their end, generation by generation.

    Orphans become its children. The pid of a child is not reused before the child is waited for.
    """
    with suppress(ChildProcessError):  # no child is left
        while True:
            for process in children_of(os.getpid()):
                os.kill(process, signal.SIGKILL)
            os.wait()
