"""Private folders of running processes in a shared place such as /tmp, and the removal of abandoned ones.

Each folder belongs to one process, which holds a lock on a file in it. The kernel releases the lock however the process
ends, so a folder without a locked file is abandoned.
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

from raykd.disk.file_lock import try_lock
from raykd.disk.lookup import is_there

LOCK = ".owner"
MAX_SESSION_S = 7 * 86_400.0  # how long the logs of a failed command's Ray cluster are kept
MAX_UNLOCKED_S = 600.0  # a folder without a lock file is abandoned after this time; a new one has none for an instant


def require_safe_place(place: Path) -> None:
    """Raise OSError if another user could replace the folders that this user makes in `place`.

    The owner of a folder can rename everything in it. In a container without other users, root's folders belong to the
    kernel's overflow user.
    """
    status = place.stat()
    if status.st_uid not in (0, os.getuid(), _overflow_user()):
        raise OSError(0, f"{place} belongs to another user, who could replace what is put there")
    if status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX:
        raise OSError(0, f"every user could replace what is put into {place} (it has no sticky bit)")


def _overflow_user() -> int:
    try:
        return int(Path("/proc/sys/kernel/overflowuid").read_text())
    except (OSError, ValueError):
        return 0


@contextmanager
def claimed(folder: Path) -> Iterator[Callable[[], bool]]:
    """Mark `folder`, which this process made, as in use until the block ends.

    Yield a function that returns whether the folder at this path still contains this process's lock file.
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
    """Remove the `folders` that belong to this user and whose process has ended, and return them.

    Links are not followed. On a shared disk, folders of processes on other machines stay.
    """
    return [folder for folder in folders if _is_folder_of_this_user(folder) and _remove_if_abandoned(folder)]


def _is_folder_of_this_user(folder: Path) -> bool:
    """Return whether `folder` is a folder, not a link, that belongs to this user."""
    try:
        status = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()


def _remove_if_abandoned(folder: Path) -> bool:
    """Remove `folder` if its process has ended, and return whether it was removed."""
    try:
        before = folder.lstat()
        try:
            descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            if time.time() - before.st_mtime < MAX_UNLOCKED_S:
                return False
            shutil.rmtree(folder)
            return True
    except OSError:
        return False
    try:
        with suppress(OSError):
            if not _is_this_machine(os.read(descriptor, 4096).decode(errors="replace")):
                return False
            if try_lock(descriptor) and _is_lock_of(folder, descriptor):  # not replaced meanwhile by a requeued job
                shutil.rmtree(folder)
                return True
        return False
    finally:
        os.close(descriptor)


def _is_lock_of(folder: Path, descriptor: int) -> bool:
    """Return whether the open lock file is still the one in `folder`. While it is open, its inode is not reused."""
    try:
        return os.path.samestat(os.fstat(descriptor), (folder / LOCK).lstat())
    except OSError:
        return False


def _machine() -> str:
    """Return 'BOOT_ID HOST', because locks are reliable only between processes of one running kernel."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = "unknown"
    return f"{boot} {socket.gethostname()}"


def _is_this_machine(machine: str) -> bool:
    """Return whether the recorded `machine` is this one, either now or before a reboot that ended its processes."""
    boot, _, host = machine.partition(" ")
    this_boot, _, this_host = _machine().partition(" ")
    return boot == this_boot or host == this_host


def remove_abandoned_below(base: Path) -> list[Path]:
    """Remove the folders in `base` that this user's ended jobs and commands left, and return their paths."""
    user = os.getuid()
    folders = [*base.glob(f"rk-{user}-*"), *base.glob(f".rk-{user}-*")]
    commands = base / f"raykd-{user}"
    if _is_folder_of_this_user(commands):
        folders += commands.glob("command-*")
    return remove_abandoned(folders)


def remove_old_sessions(folder: Path) -> list[Path]:
    """Remove the folders of Ray's sessions in `folder` that are over a week old, and return their paths.

    A session's name ends with the id of its driver's process, and it is kept while that process runs.
    """
    removed = []
    for session in folder.glob("session_*_*"):
        is_running = is_there(Path("/proc", session.name.rpartition("_")[2]))
        with suppress(OSError):
            if not is_running and time.time() - session.lstat().st_mtime > MAX_SESSION_S:
                shutil.rmtree(session)
                removed.append(session)
    return removed
