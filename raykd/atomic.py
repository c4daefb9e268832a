"""Files, and folders, written aside, flushed and renamed: who reads sees the old bytes or the new, after any kill."""

import errno
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from raykd.errors import ConfigError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path to write to; when the block ends well, it takes the place of `path` in one rename.

    Raises OSError that names `path`, and ConfigError where a folder is in the place of the file, or a file in the
    place of its folder.
    """
    make_folder(path.parent)
    if path.is_dir():
        raise ConfigError(f"'{path}' is a folder, and a file has to be written there; move it away")
    aside = _beside(path)
    try:
        with naming(path, aside):
            yield aside
            _flush(aside)
            os.replace(aside, path)
        _flush_folder(path.parent)
    finally:
        aside.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """Make the folder `path` and those above it. Raises ConfigError where one of them is a file."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        found = next(folder for folder in (path, *path.parents) if os.path.lexists(folder))
        raise ConfigError(f"'{found}' is not a folder, and files have to be written below it; move it away") from None


@contextmanager
def naming(path: Path, aside: Path | None = None) -> Iterator[None]:
    """Put `path` into an OSError that names no file (a full disk fails a write, which knows none) or names `aside`."""
    try:
        yield
    except OSError as error:
        is_nameless = error.filename is None and error.errno is not None
        if is_nameless or (aside is not None and str(error.filename) == str(aside)):
            error.filename = str(path)
        raise


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Give a folder to put files in; when the block ends well, it takes the place of the folder `path`, if any.

    A full folder is not replaced in one rename but in two: killed between them, `path` is not there, and never half.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside, before = _beside(path), _beside(path)
    try:
        aside.mkdir()
        yield aside
        for file in aside.iterdir():
            _flush(file)
        _flush_folder(aside)
        if path.is_dir():
            path.rename(before)
        aside.rename(path)
        _flush_folder(path.parent)
    finally:
        if before.is_dir() and not path.exists():
            before.rename(path)
        for folder in (aside, before):
            shutil.rmtree(folder, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed writers left aside in `folder`; only for who alone writes there."""
    for path in folder.glob(".*") if folder.is_dir() else ():
        if re.fullmatch(r"\.[0-9a-f]{12}-.+", path.name):
            path.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """`content` at `path`, readable by whom the user's umask allows."""
    with replacing(path) as aside:
        aside.write_bytes(content)


def write_json(path: Path, payload: Any) -> None:
    """`payload` as indented JSON at `path`. Raises ValueError for NaN and infinity, which JSON does not have."""
    write_bytes(path, (json.dumps(payload, indent=1, allow_nan=False) + "\n").encode())


def _beside(path: Path) -> Path:
    """A name in the same folder that nobody else has; the suffix stays last: some writers choose their format by it."""
    return path.with_name(f".{uuid.uuid4().hex[:12]}-{path.name}")


def _flush_folder(path: Path) -> None:
    """Where the filesystem can: some network filesystems refuse, and keep names in order by themselves."""
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
