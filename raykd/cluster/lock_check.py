"""Whether file locks exclude processes on other nodes, tested between the nodes of a job.

The head holds a lock on a file in the folder where the job was submitted, and every other node tries to acquire it. On
BeeGFS, and on Lustre with `-o localflock`, it can. Two jobs on such nodes could then train one run at the same time.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from raykd.disk.file_lock import try_lock

VARIABLE = "RAYKD_LOCK_CHECK"  # environment variable: the path of the file


@contextmanager
def locked_file(path: Path) -> Iterator[dict[str, str]]:
    """Hold a lock on the new file `path` within the block. Yield the variable for other nodes, if that is possible."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        yield {}
        return
    try:
        is_locked = False
        with suppress(OSError):  # no locks at all, which the experiment reports
            is_locked = try_lock(descriptor)
        yield {VARIABLE: str(path)} if is_locked else {}
    finally:
        os.close(descriptor)
        with suppress(OSError):
            path.unlink()


def warning(node: str) -> str:
    """Return a warning if this node can acquire the lock that the head holds, otherwise ''."""
    path = Path(os.environ.get(VARIABLE, ""))
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        if not try_lock(descriptor):
            return ""
    except OSError:
        return ""
    finally:
        os.close(descriptor)
    return (
        f"warning: file locks in {path.parent} hold on one node only, as {node} can acquire a lock that another "
        "node holds: let no two jobs train the same runs there concurrently"
    )
