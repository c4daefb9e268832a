"""Kernel locks on files, which the kernel releases when their process ends, however it ends. Imports no torch.

with acquire(lock_at(folder / ".lock"), wait_s=10):
    ...                                             # no other process holds the lock now
"""

import errno
from pathlib import Path

from filelock import AcquireReturnProxy, FileLock, Timeout

from raykd.config.damage import DamagedFile


def lock_at(path: Path) -> FileLock:
    """Return a kernel lock, released when its process ends. filelock must not fall back to a lock file, which stays."""
    return FileLock(path, is_singleton=False, fallback_to_soft=False)


def acquire(lock: FileLock, wait_s: float) -> AcquireReturnProxy:
    """Acquire `lock`. Raises Timeout after `wait_s` seconds, and DamagedFile if a folder has the name of its file."""
    try:
        return lock.acquire(timeout=wait_s)
    except IsADirectoryError:
        raise DamagedFile(
            f"'{lock.lock_file}' is damaged: it is not a file; remove it and rerun the same command"
        ) from None


def is_locked(lock: FileLock) -> bool:
    """Return whether another process holds `lock` now. Raises DamagedFile as `acquire` does."""
    try:
        with acquire(lock, 0):
            return False
    except Timeout:
        return True
    except OSError as error:
        if error.errno in (errno.EROFS, errno.EACCES):  # a read-only store, so no process writes there
            return False
        raise
