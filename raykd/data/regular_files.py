"""Folders of regular files: whatever cannot be read like a file is refused before it is opened.

Opening a FIFO waits for a writer that may never come, and a device has no end.
"""

import os
import stat
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from raykd.disk.lookup import is_folder
from raykd.errors import DataError

REDOWNLOAD = "copy or download it again"
_KINDS = {
    stat.S_IFIFO: "a FIFO (a named pipe)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
# Written by file managers and archive tools beside users' files, in lower case.
_LEFTOVERS = {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx"}


class FileVersion(NamedTuple):
    """A regular file as it was when it was listed."""

    path: Path
    size: int
    mtime_ns: int

    def read(self) -> bytes:
        """Return the bytes. Raises DataError if the file cannot be read, or has another size or time of change."""
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read ({error.strerror}); {REDOWNLOAD}") from error
        self.require_unchanged()
        return content

    def require_unchanged(self) -> None:
        """Raise DataError if the file has another size or time of change than when it was listed."""
        status = _status(self.path)
        if (status.st_size, status.st_mtime_ns) != (self.size, self.mtime_ns):
            raise DataError(f"{self.path}: has changed since the command started; rerun the same command")


def require_regular_file(path: Path) -> FileVersion:
    """Return the version of a regular file, or of the one that a link points to. Raises DataError if it is neither."""
    status = _status(path)
    mode = status.st_mode
    if stat.S_ISDIR(mode):
        raise DataError(f"{path}: is a folder with the name of a file; rename it, or move its files out")
    if not stat.S_ISREG(mode):
        raise DataError(f"{path}: is {_KINDS.get(stat.S_IFMT(mode), 'of an unknown kind')}, not a file; remove it")
    return FileVersion(path, status.st_size, status.st_mtime_ns)


def walk(folder: Path, suffixes: Collection[str], ancestors: tuple[tuple[int, int], ...] = ()) -> Iterator[Path]:
    """Yield every entry below `folder` that is no folder, following links, without hidden entries and leftovers.

    suffixes: of files, in lower case; a folder with such a suffix is yielded, to be refused. ancestors: device and
    inode of each folder on the way down to `folder`.

    Raises DataError for a link to one of the ancestors, which would never end.
    """
    status = _status(folder)
    key = (status.st_dev, status.st_ino)
    if key in ancestors:
        raise DataError(f"{folder}: is a link to a folder above it, so that its files never end; remove the link")
    for entry in _entries(folder):
        path = folder / entry.name
        # DirEntry.is_dir raises for a link that cannot be followed. For other entries it makes no system call.
        descends = is_folder(path) if entry.is_symlink() else entry.is_dir()
        if descends and path.suffix.lower() not in suffixes:
            yield from walk(path, suffixes, (*ancestors, key))
        else:
            yield path


def list_folder(folder: Path) -> list[Path]:
    """Return the entries of `folder`, sorted by name, without hidden ones and leftovers of file managers."""
    return [folder / entry.name for entry in _entries(folder)]


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".")]
        return sorted((e for e in visible if e.name.lower() not in _LEFTOVERS), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror}); check its permissions") from error


def _status(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        if path.is_symlink():
            target = path.readlink()
            raise DataError(f"{path}: is a link to {target}, which cannot be followed; remove the link") from error
        raise DataError(f"{path}: cannot be read ({error.strerror}); {REDOWNLOAD}") from error
