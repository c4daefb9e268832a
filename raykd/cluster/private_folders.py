"""Private folders of running processes in a shared place such as /tmp, and the removal of those whose process is gone.

Each folder belongs to one process, which holds a lock on a file in it. The kernel releases the lock when the process
ends, however it ends, so a folder without a locked file is left over.
"""

import fcntl
import os
import shutil
import socket
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LOCK = ".owner"
UNLOCKED_S = 600.0  # a folder without the file may be in the making for an instant


@contextmanager
def claimed(folder: Path) -> Iterator[Callable[[], bool]]:
    """Mark `folder`, which this process has made, as in use until the block ends.

    Gives a function that returns whether the folder of this name is still the one that was marked.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(folder / LOCK, flags, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.write(descriptor, _machine().encode())
        yield lambda: _is_lock_of(folder, descriptor)
    finally:
        os.close(descriptor)


def remove_abandoned(folders: Iterable[Path]) -> list[Path]:
    """Remove those of `folders` that are this user's and whose process has ended. Return what was removed.

    Links are not followed. A folder of a process on another machine, on a disk that both see, stays.
    """
    return [folder for folder in folders if _is_own(folder) and _remove_if_abandoned(folder)]


def _is_own(folder: Path) -> bool:
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()


def _remove_if_abandoned(folder: Path) -> bool:
    try:
        before = folder.lstat()
        try:
            descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            if time.time() - before.st_mtime < UNLOCKED_S:
                return False
            shutil.rmtree(folder)
            return True
    except OSError:
        return False
    try:
        with suppress(OSError):
            if not _was_here(os.read(descriptor, 4096).decode(errors="replace")):
                return False
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError where it is in use
            if _is_lock_of(folder, descriptor):  # a requeued job may have made it anew
                shutil.rmtree(folder)
                return True
        return False
    finally:
        os.close(descriptor)


def _is_lock_of(folder: Path, descriptor: int) -> bool:
    """Whether the open lock file is the one in `folder` now. While it is open, no other file gets its inode number."""
    try:
        return os.path.samestat(os.fstat(descriptor), (folder / LOCK).lstat())
    except OSError:
        return False


def _machine() -> str:
    """'BOOT_ID HOST': locks are certain among processes of one running kernel."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = "unknown"
    return f"{boot} {socket.gethostname()}"


def _was_here(machine: str) -> bool:
    """Whether `machine`, as recorded, is this one now (the lock tells) or before a restart (its processes are gone)."""
    boot, _, host = machine.partition(" ")
    own_boot, _, own_host = _machine().partition(" ")
    return boot == own_boot or host == own_host


def remove_abandoned_below(base: Path) -> list[Path]:
    """Remove this user's abandoned folders of jobs, of staged files and of commands below `base`."""
    user = os.getuid()
    folders = [*base.glob(f"rk-{user}-*"), *base.glob(f".rk-{user}-*")]
    commands = base / f"raykd-{user}"
    if _is_own(commands):
        folders += commands.glob("command-*")
    return remove_abandoned(folders)
