"""Folders with a record in JSON and a lock: `LockedFolder`, the base of the folders of runs and searches.

Only the holder of the lock changes the record. Anyone may read it, because files are replaced atomically. Locks are
kernel locks on a file `.lock`, released when their process ends. Imports no torch.
"""

from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from filelock import AcquireReturnProxy, FileLock, Timeout

from raykd.config.codec import read_record, require_record, write_record
from raykd.disk.atomic import make_folder
from raykd.disk.damage import DamagedFile
from raykd.disk.file_lock import acquire, is_locked, lock_at
from raykd.errors import RunFailed

Record = TypeVar("Record")


class FileIn:
    """A file or folder by its name below `folder.path`, as an attribute of a folder's class."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, folder: Any, owner: type) -> Path:
        return folder.path / self._name


@dataclass(frozen=True)
class LockedFolder(Generic[Record]):
    """A folder with a record and a lock. Subclasses set `record_path`, and the class of the record."""

    path: Path

    record_class: ClassVar[type]
    record_path: ClassVar[FileIn]

    @property
    def described(self) -> str:
        """The description of the folder in messages about its lock."""
        return self.path.name

    @property
    def last_writer(self) -> str:
        """The process that holds the lock or held it last."""
        return "another process"

    def record(self) -> Record | None:
        """Return the record, or None if there is none yet. Raises DamagedFile."""
        return read_record(self.record_class, self.record_path)

    def record_if_valid(self) -> Record | None:
        """Return the record, or None if there is none yet or it is damaged."""
        with suppress(DamagedFile):
            return self.record()
        return None

    def require_record(self) -> Record:
        """Return the record. Raises DamagedFile if it is damaged or missing."""
        return require_record(self.record_class, self.record_path)

    def write_record(self, record: Record) -> None:
        write_record(self.record_path, record)

    def update(self, **changes: Any) -> None:
        """Replace fields of the record. Raises DamagedFile if it is damaged or missing."""
        record: Any = self.require_record()
        self.write_record(replace(record, **changes))

    def lock(self, wait_s: float = 0) -> AcquireReturnProxy:
        """Acquire the lock, and make the folder if it is missing. The lock is reentrant for this object.

        Raises RunFailed if another process still holds the lock after `wait_s` seconds.
        """
        try:
            while True:
                make_folder(self.path)
                with suppress(FileNotFoundError):  # the folder was removed after it was made
                    return acquire(self._lock, wait_s)
        except Timeout:
            raise RunFailed(
                f"{self.described} is locked by {self.last_writer}; wait for it to end, or stop it"
            ) from None

    def is_held(self) -> bool:
        """Return whether a process holds the lock now, which may be this one."""
        return self._lock.is_locked or is_locked(self._lock)

    @cached_property
    def _lock(self) -> FileLock:
        return lock_at(self.path / ".lock")
