"""A results folder as a whole: what it has beside the runs, and the locks between commands that train and remove.

    .logit_caches/  .data/  .ray/  caches that raykd can make again, and Ray Train's files
    .in_use.lock    held together by all commands and workers that train, and alone by `raykd clean`
    .plan.lock      held while a command reads which runs are done and writes its plan, and while runs are removed or
                    tagged

Imports no torch.
"""

import errno
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from raykd.disk.atomic import naming
from raykd.disk.file_lock import try_lock
from raykd.disk.lookup import below, find, is_file, is_folder, owner_of
from raykd.errors import ConfigError, RunFailed

DEFAULT_RESULTS = "ray_results"  # below the current folder
LOGIT_CACHES, DECODED, RAY = ".logit_caches", ".data", ".ray"
IN_USE_LOCK, PLAN_LOCK = ".in_use.lock", ".plan.lock"
PLAN_WAIT_S = 60.0  # .plan.lock is held while states are read and small files are written or renamed
CLEAN_WAIT_S = 60.0  # `raykd clean` only renames what it removes while it holds the lock
POLL_S = 0.05


@contextmanager
def in_use(results: Path) -> Iterator[None]:
    """Keep `raykd clean` from removing caches and leftovers of `results` inside the block.

    Many processes may be inside at the same time. A folder that is missing or read-only has nothing to protect. In a
    folder that a group may write, the group may write what this process makes within the block. Raises RunFailed if
    `raykd clean` holds the lock for more than CLEAN_WAIT_S, ConfigError if the lock file is another user's.
    """
    with _writable_by_group(results):
        descriptor = _open(results)
        if descriptor is None:
            yield
            return
        try:
            deadline = time.monotonic() + CLEAN_WAIT_S
            while not _try_lock(results, descriptor, shared=True):
                if time.monotonic() > deadline:
                    raise RunFailed(f"'{results}' was locked by `raykd clean` for {CLEAN_WAIT_S:g} s; end that command")
                time.sleep(POLL_S)
            yield
        finally:
            os.close(descriptor)  # which releases the lock


@contextmanager
def _writable_by_group(results: Path) -> Iterator[None]:
    """Remove the group's write permission from this process's umask within the block, if `results` has it."""
    if not is_folder(results) or not results.stat().st_mode & stat.S_IWGRP:
        yield
        return
    before = os.umask(0o022)
    os.umask(before & ~stat.S_IWGRP)
    try:
        yield
    finally:
        os.umask(before)


@contextmanager
def unused(results: Path) -> Iterator[bool]:
    """Yield whether no process is inside `in_use(results)`. If so, none enters until the block ends."""
    descriptor = _open(results)
    try:
        yield descriptor is not None and _try_lock(results, descriptor)
    finally:
        if descriptor is not None:
            os.close(descriptor)


def is_in_use(results: Path) -> bool:
    """Return whether a process is inside `in_use(results)` now. Makes no file."""
    if not is_file(results / IN_USE_LOCK):
        return False
    with unused(results) as is_free:
        return not is_free


def require_readable(results: Path) -> None:
    """Raise ConfigError if `results` is not a folder that can be read."""
    if not is_folder(results):
        state = "is not a folder" if os.path.lexists(results) else "does not exist"
        raise ConfigError(f"results folder '{results}' {state}; name another with --results")
    if not os.access(results, os.R_OK | os.X_OK):
        raise ConfigError(f"results folder '{results}' cannot be read by you; name another with --results")


def require_writable(folder: Path, results: Path) -> None:
    """Raise ConfigError if no file can be made or removed in `folder` of `results`."""
    if not is_folder(folder) or not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(
            f"results folder '{results}' cannot be written: '{folder}' is not a folder that you may write; "
            "name another with --results"
        )


def search_paths(results: Path) -> list[Path]:
    """Return the folder of every search under `results`, by family and name, without those that are being removed."""
    paths = find(results, "*/*/search.json")
    return [path.parent for path in paths if not any(part.startswith(".") for part in path.parts[-3:-1])]


def disk_bytes(path: Path) -> int:
    """Return the bytes that a file, or all files below a folder, occupy on disk. Holes in files occupy none."""
    total = 0
    for entry in (path, *(() if path.is_symlink() else below(path))):
        try:
            total += entry.lstat().st_blocks * 512  # the unit of st_blocks, whatever the filesystem's block size
        except OSError:  # removed in the meantime
            continue
    return total


def _open(results: Path) -> int | None:
    """Open the lock file of `results`; None if the folder is missing or cannot be written."""
    path = results / IN_USE_LOCK
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno == errno.EACCES and os.access(results, os.W_OK) and is_file(path):
            raise ConfigError(
                f"'{path}' belongs to {owner_of(path)} and cannot be written by you; in a shared results folder, its "
                f"owner types: chmod -R g+w {results}, and each user 'umask 002' before sbatch"
            ) from None
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EROFS, errno.EACCES):
            return None
        raise


def _try_lock(results: Path, descriptor: int, shared: bool = False) -> bool:
    """Lock the lock file of `results`, open as `descriptor`. Return False if another process holds its lock."""
    with naming(results / IN_USE_LOCK):
        return try_lock(descriptor, shared)
