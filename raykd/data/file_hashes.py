"""SHA-256 and MD5 of a data set's files, kept in the cache folder, so that a second start reads no image.

    <cache>/hashes-<16 hex digits>.arrow    path, algorithm, state and hash of each file below one place

The digits begin the SHA-256 of the place's resolved path.
The state of a file is its size, inode, and the times of its last changes. A file with another state is hashed again. A
file that changed less than AT_REST_S before it was hashed is not kept, because it may change again within the
resolution of its time stamps. The cache can always be rebuilt: a damaged file is ignored, and one that cannot be
written is skipped. Both are logged.
"""

import hashlib
import logging
import os
import time
import zlib
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from raykd.atomic import write_bytes
from raykd.data.regular_files import REDOWNLOAD
from raykd.errors import DataError
from raykd.on_disk import is_there
from raykd.provenance import AT_REST_S

_log = logging.getLogger(__name__)
_STATE = ("size", "inode", "mtime_ns", "ctime_ns")
_SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("algorithm", pa.string()),
        *((name, pa.uint64()) for name in _STATE),
        ("digest", pa.binary()),
    ]
)
_CHECKSUM_BYTES = 4


class FileState(NamedTuple):
    """What differs between two versions of a file."""

    size: int
    inode: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> "FileState":
        return cls(status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns)

    def is_at_rest(self, time_ns: int) -> bool:
        """Return whether the last change is so long before `time_ns` that any later one would alter the time stamps."""
        return time_ns - max(self.mtime_ns, self.ctime_ns) >= AT_REST_S * 1e9


class FileHashes:
    """The hashes of the files below one place. Several threads may hash at a time."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._known: dict[tuple[str, str], tuple[FileState, bytes]] = {}  # by relative path and algorithm
        self._is_changed = False

    def sha256(self, path: Path) -> bytes:
        """Return the SHA-256 of the file `path`, 32 bytes. Raises DataError if it cannot be read."""
        return self._digest(path, "sha256")

    def md5(self, path: Path) -> bytes:
        """Return the MD5 of the file `path`, 16 bytes, to compare with a published one. Raises as `sha256` does."""
        return self._digest(path, "md5")

    def _digest(self, path: Path, algorithm: str) -> bytes:
        key = os.path.relpath(path, self._place), algorithm
        try:
            started_ns, state = time.time_ns(), FileState.of(path.stat())
            known = self._known.get(key)
            if known and known[0] == state:
                return known[1]
            with path.open("rb") as stream:
                digest = hashlib.file_digest(stream, partial(hashlib.new, algorithm, usedforsecurity=False)).digest()
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror}); {REDOWNLOAD}") from error
        if state.is_at_rest(started_ns):
            self._known[key], self._is_changed = (state, digest), True
        return digest

    def read(self, cache: Path) -> None:
        """Add the hashes that an earlier process has written to the folder `cache`."""
        path = self._path(cache)
        if not is_there(path):
            return
        try:
            content = path.read_bytes()
            table = content[_CHECKSUM_BYTES:]
            if zlib.crc32(table) != int.from_bytes(content[:_CHECKSUM_BYTES], "big"):
                raise ValueError("its checksum does not match")
            columns = pa.ipc.open_stream(table).read_all().cast(_SCHEMA).to_pydict()
        except (OSError, ValueError, pa.ArrowException) as error:
            _log.warning("%s: damaged (%s), hashing the files again", path, error)
            return
        states = map(FileState._make, zip(*(columns[name] for name in _STATE), strict=True))
        keys = zip(columns["path"], columns["algorithm"], strict=True)
        stored = dict(zip(keys, zip(states, columns["digest"], strict=True), strict=True))
        self._known = stored | self._known

    def write(self, cache: Path) -> None:
        """Write all hashes to the folder `cache`, if there are new ones."""
        if not self._is_changed:
            return
        keys, path = sorted(self._known), self._path(cache)
        states, digests = zip(*(self._known[key] for key in keys), strict=True)
        columns = [*zip(*keys, strict=True), *zip(*states, strict=True), digests]
        try:
            arrays = [pa.array(column, field.type) for column, field in zip(columns, _SCHEMA, strict=True)]
            table, sink = pa.table(arrays, _SCHEMA), pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, _SCHEMA) as writer:
                writer.write_table(table)
            content = sink.getvalue().to_pybytes()
            write_bytes(path, zlib.crc32(content).to_bytes(_CHECKSUM_BYTES, "big") + content)
            self._is_changed = False
        except (OSError, UnicodeError, pa.ArrowException) as error:  # a name may be no UTF-8
            _log.warning("%s: could not be written (%s), continuing without it", path, error)

    def _path(self, cache: Path) -> Path:
        resolved = os.fsencode(self._place.resolve())  # the copy of a job's data folder may be a link to the place
        return cache / f"hashes-{hashlib.sha256(resolved).hexdigest()[:16]}.arrow"


# Kept in this process, so that a file is hashed once even before the cache folder exists.
_hashes_by_place: dict[Path, FileHashes] = {}


def hashes_of(place: Path, cache: Path | None) -> FileHashes:
    """Return the hashes of the files below `place`, with those in the folder `cache`, which need not exist."""
    hashes = _hashes_by_place.setdefault(place.absolute(), FileHashes(place.absolute()))
    if cache is not None:
        hashes.read(cache)
    return hashes


def write_all(cache: Path) -> None:
    """Write all hashes of this process to the folder `cache`."""
    for hashes in _hashes_by_place.values():
        hashes.write(cache)
