"""Files written aside, flushed and renamed: whoever reads sees the old bytes or the new, after any kill."""

import errno
import json
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path to write to; when the block ends well, it takes the place of `path` in one rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays last: some writers choose their format by it.
    aside = path.with_name(f".{uuid.uuid4().hex[:12]}-{path.name}")
    try:
        yield aside
        _flush(aside)
        os.replace(aside, path)
        _flush_folder(path.parent)
    finally:
        aside.unlink(missing_ok=True)


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
