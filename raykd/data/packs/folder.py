"""The folder into which a data set is packed: what may lie in it, and one process at a time that writes into it.

    <folder>/.lock           a kernel lock, held while a process packs; the tasks that it starts do not acquire it
    <folder>/packing.json    what is packed; written before the first shard, removed when the pack is complete

A process that is killed leaves packing.json, which the same command resumes, and no lock.
"""

import os
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import Timeout

from raykd.config.codec import read_record, write_record
from raykd.data.packs.encoding import PackOptions
from raykd.data.packs.errors import TO_ANOTHER_FOLDER, HoldsOtherPack, PackError
from raykd.data.packs.record import INDEX, RECORD, PackRecord
from raykd.data.splits import TEST, TRAIN
from raykd.disk.atomic import make_folder, remove_leftovers
from raykd.disk.damage import DamagedFile
from raykd.disk.file_lock import acquire, is_locked, lock_at
from raykd.disk.lookup import is_folder, is_there
from raykd.provenance import this_process

LOCK, PACKING, SKIPPED = ".lock", "packing.json", "skipped.txt"
_SHARD_FILE = re.compile(rf"({TRAIN}|{TEST})-\d{{5,}}\.(arrow|index|json)")
_POLL_S = 0.2  # how often a waiting process tries to acquire the lock


@dataclass(frozen=True)
class Packing:
    """packing.json.

    source_key: of the pack, see PackRecord. process: the one that holds the lock, or held it last.
    """

    options: PackOptions
    source_key: str
    process: str = ""


def require_place(folder: Path, source_key: str, options: PackOptions, is_mine: bool = False) -> None:
    """Raise PackError if `folder` holds another pack, or anything else. is_mine: this process holds the lock."""
    existing = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not is_folder(existing):
        where = "there" if existing == folder else "below it"
        raise PackError(f"{existing}: is no folder, and the pack has to be written {where}", "", TO_ANOTHER_FOLDER)
    # In this order, because another process writes packing.json before any shard, and removes it after pack.json.
    names = sorted(path.name for path in folder.iterdir()) if is_folder(folder) else []
    is_begun = is_there(folder / PACKING)
    record = read_record(PackRecord, folder / RECORD)
    if record is not None and record.source_key != source_key:
        raise HoldsOtherPack(
            f"{folder}: holds a pack of other files, other versions of them, or other options",
            "remove the folder to pack again",
            TO_ANOTHER_FOLDER,
        )
    _require_same_options(folder, options, is_mine)
    if others := [name for name in names if not _belongs_to_pack(name)]:
        raise PackError(f"{folder}: has {others[0]}, which is no file of a pack", "", TO_ANOTHER_FOLDER)
    if record is None and not is_begun and (shards := list(filter(_SHARD_FILE.fullmatch, names))):
        raise PackError(
            f"{folder}: has {shards[0]}, and neither {RECORD} nor {PACKING}, which state how it was packed",
            f"copy {RECORD} back, remove the folder to pack again",
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
    write_record(folder / PACKING, Packing(options, source_key, this_process()))


def packing_process(folder: Path) -> str:
    """Return the process that packs into `folder`, or that did so last."""
    try:
        found = read_record(Packing, folder / PACKING)
    except DamagedFile:
        found = None
    return (found.process if found else "") or "another process"


def remove_unfinished(folder: Path, shards: Collection[str]) -> None:
    """Remove the files that only an unfinished pack has, and shards of an earlier plan. shards: names of files."""
    kept = {*shards, INDEX, RECORD, SKIPPED}
    for path in folder.iterdir():
        if path.name not in kept and _belongs_to_pack(path.name) and not path.name.startswith("."):
            path.unlink(missing_ok=True)
    remove_leftovers(folder)
    if is_there(folder / LOCK):  # a complete pack may be on a read-only disk, where even this would be an error
        (folder / LOCK).unlink(missing_ok=True)  # a process that still waits for it finds a complete pack


def _belongs_to_pack(name: str) -> bool:
    return name in (RECORD, INDEX, SKIPPED, PACKING) or name.startswith(".") or bool(_SHARD_FILE.fullmatch(name))


def _require_same_options(folder: Path, options: PackOptions, is_mine: bool) -> None:
    """Raise PackError if an unfinished pack of other options lies in `folder`."""
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


def _require_same_source(folder: Path, source_key: str) -> None:
    """Raise PackError if the process that holds the lock packs other files, or with other options."""
    found = read_record(Packing, folder / PACKING)
    if found is not None and found.source_key != source_key:
        raise _packed_by_another(folder, found)


def _packed_by_another(folder: Path, found: Packing) -> PackError:
    problem = f"{folder}: {found.process} is packing other files into it, or with other options"
    return PackError(f"{problem} ({found.options.described})", "wait for it to end", TO_ANOTHER_FOLDER)
