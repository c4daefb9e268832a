"""Let one process at a time write into the folder of a pack, and only with the options that the pack has.

    <folder>/.lock           a kernel lock, held while a process packs; the tasks that it starts do not acquire it
    <folder>/packing.json    what is packed; written before the first shard, removed when the pack is complete

A process that is killed leaves packing.json, which the same command resumes, and no lock.
"""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import Timeout

from raykd.atomic import make_folder
from raykd.config.codec import read_record, write_record
from raykd.data.image_packing import PackOptions
from raykd.data.pack_errors import TO_ANOTHER_FOLDER, PackError
from raykd.file_lock import acquire, is_locked, lock_at
from raykd.on_disk import is_there

LOCK, PACKING = ".lock", "packing.json"
_POLL_S = 0.2  # how often a waiting process tries to acquire the lock


@dataclass(frozen=True)
class Packing:
    """packing.json.

    source_key: of the pack, see PackRecord. process: the one that holds the lock, or held it last.
    """

    options: PackOptions
    source_key: str
    process: str = ""


def require_same_options(folder: Path, options: PackOptions, is_mine: bool) -> None:
    """Raise PackError if an unfinished pack of other options lies in `folder`. is_mine: this process holds the lock."""
    found = read_record(Packing, folder / PACKING)
    if found is None or found.options.key == options.key:
        return
    path = folder / LOCK
    if not is_mine and is_there(path) and is_locked(lock_at(path)):
        raise _packed_by_another(folder, found)
    raise PackError(
        f"{folder}: holds an unfinished pack {found.options.described}",
        "finish it with the same command as before, remove the folder",
        TO_ANOTHER_FOLDER,
    )


@contextmanager
def locked(folder: Path, source_key: str, on_wait: Callable[[], None]) -> Iterator[None]:
    """Make `folder`, and hold its lock during the block, where nothing else writes the pack.

    on_wait: called now and then while another process packs the same. It may raise an error to stop waiting.
    Raises PackError if another process packs anything else there, or if the folder cannot be made or locked.
    """
    try:
        make_folder(folder)
        lock, held = lock_at(folder / LOCK), None
        while held is None:
            try:
                held = acquire(lock, _POLL_S)
            except Timeout:
                _require_same_source(folder, source_key)
                on_wait()
    except OSError as error:
        raise PackError(f"{folder}: cannot be made or locked ({error.strerror})", "", TO_ANOTHER_FOLDER) from error
    with held:
        yield


def record_packing(folder: Path, options: PackOptions, source_key: str) -> None:
    """Write packing.json. The caller holds the lock."""
    write_record(folder / PACKING, Packing(options, source_key, f"process {os.getpid()} on {socket.gethostname()}"))


def _require_same_source(folder: Path, source_key: str) -> None:
    """Raise PackError if the process that holds the lock packs other files, or with other options."""
    found = read_record(Packing, folder / PACKING)
    if found is not None and found.source_key != source_key:
        raise _packed_by_another(folder, found)


def _packed_by_another(folder: Path, found: Packing) -> PackError:
    problem = f"{folder}: {found.process} is packing other files into it, or with other options"
    return PackError(f"{problem} ({found.options.described})", "wait for it to end", TO_ANOTHER_FOLDER)
