"""Atomic replacement of files and folders: written under another name, flushed, then renamed.

A reader sees either the old bytes or the new ones, whenever the writer is killed.
"""

import errno
import json
import os
import re
import shutil
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from raykd.disk.lookup import is_folder, is_there
from raykd.errors import ConfigError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to, and rename it to `path` if the block succeeds.

    Raises OSError with `path` as its file name, and ConfigError if a folder is in the place of the file, or a file in
    the place of its folder.
    """
    make_folder(path.parent)
    if is_folder(path):
        raise ConfigError(f"'{path}' is a folder, and a file has to be written there; move it away")
    temporary = temporary_beside(path)
    try:
        with naming(path, temporary):
            yield temporary
            _flush(temporary)
            os.replace(temporary, path)
        _flush_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """Make the folder `path` and its parents. Raises ConfigError if one of them is a file."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        file = next(folder for folder in (path, *path.parents) if os.path.lexists(folder))
        raise ConfigError(f"'{file}' is not a folder, and files have to be written below it; move it away") from None


@contextmanager
def naming(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Set the file name of an OSError to `path` if it has none, as for a full disk, or if it is `temporary`."""
    try:
        yield
    except OSError as error:
        is_nameless = error.filename is None and error.errno is not None
        if is_nameless or (temporary is not None and str(error.filename) == str(temporary)):
            error.filename = str(path)
        raise


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder, and rename it to `path` if the block succeeds.

    Replacing a folder that exists takes two renames. A kill between them leaves no folder at `path`, never a part of
    one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, previous = temporary_beside(path), temporary_beside(path)
    try:
        temporary.mkdir()
        yield temporary
        for file in temporary.iterdir():
            _flush(file)
        _flush_folder(temporary)
        _move_over(temporary, path, previous)
        _flush_folder(path.parent)
    finally:
        if is_folder(previous) and not is_there(path):
            previous.rename(path)
        for folder in (temporary, previous):
            shutil.rmtree(folder, ignore_errors=True)


def _move_over(temporary: Path, path: Path, previous: Path) -> None:
    """Rename the folder `temporary` to `path`, and a folder that is there to `previous`.

    Two processes may replace `path` concurrently; the folder of the last one stays.
    """
    while True:
        with suppress(FileNotFoundError):  # the other process has moved it
            if is_folder(path):
                path.rename(previous)
        try:
            temporary.rename(path)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            shutil.rmtree(previous, ignore_errors=True)  # the other process has put its folder there


def remove_leftovers(folder: Path, names: Collection[str] | None = None) -> None:
    """Remove the temporary files of killed writers from `folder`. The caller must be the only writer of these files.

    names: of the files whose temporary files are removed; None for all.
    """
    for path in folder.glob(".*") if is_folder(folder) else ():
        if is_leftover(path.name) and (names is None or _final_name(path.name) in names):
            path.unlink(missing_ok=True)


def is_leftover(name: str) -> bool:
    """Return whether `name` is that of a temporary file or folder of a writer, which a killed one leaves behind."""
    return re.fullmatch(r"\.[0-9a-f]{12}-.+", name) is not None


def _final_name(temporary: str) -> str:
    """Return the name that a temporary file gets in the end."""
    return temporary.partition("-")[2]


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically, with the permissions of the user's umask.

    Others never may write it, also with umask 000: the code that run.json names is executed (`lookup.is_own`).
    """
    with replacing(path) as temporary, open(temporary, "wb", opener=_open_for_group) as file:
        file.write(content)


def _open_for_group(path: str, flags: int) -> int:
    return os.open(path, flags, 0o664)


def write_json(path: Path, payload: Any) -> None:
    """Write `payload` to `path` as indented JSON. Raises ValueError for NaN and infinity, which JSON does not have."""
    write_bytes(path, (json.dumps(payload, indent=1, allow_nan=False) + "\n").encode())


def temporary_beside(path: Path) -> Path:
    """Return a unique name in the same folder, for which `is_leftover` is true.

    It keeps the suffix, by which some writers choose their format.
    """
    return path.with_name(f".{uuid.uuid4().hex[:12]}-{path.name}")


def _flush_folder(path: Path) -> None:
    """Flush the folder if the filesystem supports it. Some network filesystems refuse, and keep renames in order."""
    try:
        _flush(path)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EACCES):
            raise


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
