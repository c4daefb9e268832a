"""Files and folders as they lie on disk: what cannot be read like a file is refused before it is opened.

Opening a FIFO waits for a writer that may never come, and a device has no end.
"""

import os
import stat
from collections.abc import Collection, Iterator
from pathlib import Path

from raykd.errors import DataError

AGAIN = "copy or download it again"
_KINDS = {
    stat.S_IFIFO: "a FIFO (a named pipe)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
# Written by file managers and archive tools beside users' files, in lower case.
_LEFTOVERS = {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx"}


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is passed over."""
    return name.startswith(".") or name.lower() in _LEFTOVERS


def require_file(path: Path) -> None:
    """Raise DataError unless `path` is a regular file, or a link to one."""
    mode = _status(path).st_mode
    if stat.S_ISDIR(mode):
        raise DataError(f"{path}: is a folder with the name of a file; rename it, or take its files out")
    if not stat.S_ISREG(mode):
        raise DataError(f"{path}: is {_KINDS.get(stat.S_IFMT(mode), 'no file')}, not a file; take it out")


def walk(folder: Path, suffixes: Collection[str], above: tuple[tuple[int, int], ...] = ()) -> Iterator[Path]:
    """Yield everything below `folder` but folders and what is hidden, following links.

    suffixes: of files, in lower case; a folder with one of them is refused. above: device and inode of each folder on
    the way down to `folder`.

    Raises: DataError for a link to one of the folders above it, which would never end.
    """
    status = _status(folder)
    here = (status.st_dev, status.st_ino)
    if here in above:
        raise DataError(f"{folder}: is a link to a folder above it, so that its files never end; remove the link")
    for entry in listed(folder):
        if entry.is_dir() and entry.suffix.lower() not in suffixes:
            yield from walk(entry, suffixes, (*above, here))
        else:
            yield entry


def listed(folder: Path) -> list[Path]:
    """Return what lies in `folder`, sorted by name, without what is hidden."""
    try:
        return sorted(entry for entry in folder.iterdir() if not is_hidden(entry.name))
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror}); check its permissions") from error


def _status(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        if path.is_symlink():
            target = path.readlink()
            raise DataError(f"{path}: is a link to {target}, which cannot be followed; remove the link") from error
        raise DataError(f"{path}: cannot be read ({error.strerror}); {AGAIN}") from error
