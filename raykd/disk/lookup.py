"""Which files and folders exist, and whose they are. These functions raise the errors of a disk or a network.

pathlib's do not: from Python 3.14 on, `Path.is_file`, `is_dir` and `exists` return False for any error, and from 3.13
on, `Path.glob` leaves out what it cannot read. A run whose checkpoint cannot be looked up for a moment would then start
again.
"""

import errno
import os
import pwd
import stat
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)  # ELOOP: a link that leads to itself


def is_file(path: Path) -> bool:
    """Return whether `path` is a regular file, or a link to one. Raises OSError if the disk does not answer."""
    mode = _mode(path)
    return mode is not None and stat.S_ISREG(mode)


def is_folder(path: Path) -> bool:
    """Return whether `path` is a folder, or a link to one. Raises OSError if the disk does not answer."""
    mode = _mode(path)
    return mode is not None and stat.S_ISDIR(mode)


def is_there(path: Path) -> bool:
    """Return whether `path` is a file, a folder, or a link to one. Raises OSError if the disk does not answer."""
    return _mode(path) is not None


def is_own(path: Path) -> bool:
    """Return whether only this user or root can have written `path`. Of a link, it is the link's owner that counts.

    Groups that can write it are trusted, because their members share a folder by agreement.
    """
    status = path.lstat()
    is_open = not stat.S_ISLNK(status.st_mode) and bool(status.st_mode & stat.S_IWOTH)  # a link has no permissions
    return status.st_uid in (0, os.geteuid()) and not is_open


def owner_of(path: Path) -> str:
    """Return the name of the user who owns `path`, or the number of a user who has no name here."""
    user = path.lstat().st_uid
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)


def find(folder: Path, pattern: str) -> list[Path]:
    """Return the paths below `folder` that match a pattern such as '*/*/run.json', sorted.

    A folder that is missing, or whose permissions forbid to list it, has none. Raises OSError if the disk does not
    answer.
    """
    part, _, rest = pattern.partition("/")
    try:
        if "*" in part:
            found = sorted(path for path in folder.iterdir() if fnmatchcase(path.name, part))
        else:
            found = [folder / part] if is_there(folder / part) else []
    except OSError as error:
        if error.errno in (*_ABSENT, errno.EACCES, errno.EPERM):
            return []
        raise
    return [path for child in found for path in find(child, rest)] if rest else found


def below(folder: Path) -> Iterator[Path]:
    """Yield all files and folders below `folder`, without following links; `Path.rglob` raises if one is removed.

    Folders that are removed meanwhile, or whose permissions forbid to list them, are not entered. Raises OSError if the
    disk does not answer.
    """

    def fail(error: OSError) -> None:
        if error.errno not in (*_ABSENT, errno.EACCES, errno.EPERM):
            raise error

    for parent, folders, files in os.walk(folder, onerror=fail):
        yield from (Path(parent, name) for name in (*folders, *files))


def _mode(path: Path) -> int | None:
    """Return the mode of what `path` leads to; None if there is nothing, as for a link that leads nowhere."""
    try:
        return path.stat().st_mode
    except ValueError:  # the name has a null character
        return None
    except OSError as error:
        if error.errno in _ABSENT:
            return None
        raise
