"""Kernel locks on files, which the kernel releases when their process ends, however it ends. Imports no torch.

    with holding(lock_at(folder / ".lock"), wait_s=10):
        ...                                             # no other process holds the lock now

    function         call    files                               reason
    lock_at          flock   .lock of runs, searches and packs   exclusive; waits; reentrant for one object
    try_lock         flock   .in_use.lock of results folders     shared by all that train, or held by `raykd clean`
                                                                 alone; filelock has no shared kernel locks
                             .owner in /tmp                      names its machine; filelock would empty the file, see
                                                                 cluster/private_folders.py
    try_lock_range   fcntl   .fill.lock of logit caches          several processes compute different images; flock
                                                                 locks whole files

All but those in /tmp must hold between nodes. NFS, GPFS and WekaFS support both calls. On NFS, flock is an fcntl lock
of the whole file, which must be open for writing, so no file is locked by both calls. Lustre may lack both (mounted
without `-o flock`), or restrict them to one node (`-o localflock`), as BeeGFS does by default; see mounts.py.

A lock of flock belongs to an open file, so it also excludes other threads of the same process. A lock of fcntl belongs
to the process, which loses it when it closes any descriptor of the file. So fcntl is used for ranges only.
"""

import errno
import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from filelock import AcquireReturnProxy, FileLock, Timeout

from raykd.disk.atomic import naming
from raykd.disk.damage import DamagedFile
from raykd.errors import RunFailed


def lock_at(path: Path) -> FileLock:
    """Return a kernel lock, released when its process ends. filelock must not fall back to a lock file, which stays."""
    return FileLock(path, is_singleton=False, fallback_to_soft=False)


def acquire(lock: FileLock, wait_s: float) -> AcquireReturnProxy:
    """Acquire `lock`. Raises Timeout after `wait_s` seconds, and DamagedFile if a folder has the name of its file.

    Raises OSError with the lock's file name if the filesystem has no locks, such as Lustre without `-o flock`.
    """
    try:
        with naming(Path(lock.lock_file)):
            return lock.acquire(timeout=wait_s)
    except IsADirectoryError:
        raise DamagedFile(
            f"'{lock.lock_file}' is damaged: it is not a file; remove it and rerun the same command"
        ) from None


@contextmanager
def holding(lock: FileLock, wait_s: float) -> Iterator[None]:
    """Hold `lock` inside the block. Raises RunFailed if another process still holds it after `wait_s` seconds."""
    try:
        held = acquire(lock, wait_s)
    except Timeout:
        raise RunFailed(
            f"'{lock.lock_file}' was locked by another process for {wait_s:g} s; end that process and rerun the same "
            "command"
        ) from None
    with held:
        yield


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


def try_lock(descriptor: int, shared: bool = False) -> bool:
    """Lock a file that is open for writing, and return True; return False if another process holds a lock in the way.

    shared: several processes may hold the lock at the same time, and none holds it alone. The lock is released when
    the descriptor is closed.
    """
    return _succeeds(fcntl.flock, descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)


def try_lock_range(file: IO[bytes], start: int, end: int) -> bool:
    """Lock bytes start .. end - 1 of an open file, and return True; return False if another process has locked one.

    The bytes may lie beyond the end of the file. The lock belongs to this process, which releases it when it closes any
    descriptor of the file. Use a file that is neither read nor written.
    """
    return _succeeds(fcntl.lockf, file, fcntl.LOCK_EX | fcntl.LOCK_NB, end - start, start)


def _succeeds(lock: Callable[..., None], *arguments: Any) -> bool:
    """Call `lock` without waiting. Return False if another process holds the lock."""
    try:
        lock(*arguments)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True
