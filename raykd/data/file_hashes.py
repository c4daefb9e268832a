"""SHA-256 and MD5 of a data set's files, kept in the cache folder, so that a second start reads no image.

    <cache>/<16 hex digits>-hashes.json    a HashesRecord of the files below one place

The digits begin the SHA-256 of the place's resolved path. provenance.py decides which of the hashes still hold. The
cache can always be rebuilt: a damaged file is ignored, and one that cannot be written is skipped. Both are logged.
"""

import hashlib
import logging
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from raykd.config.codec import read_record, write_record
from raykd.data.regular_files import REDOWNLOAD
from raykd.disk.damage import DamagedFile
from raykd.errors import DataError
from raykd.provenance import file_digest, known_digests

_log = logging.getLogger(__name__)
_KNOWN = re.compile(r"(\d+ ){4}[0-9a-f]{32}([0-9a-f]{32})?")
_stored: dict[Path, Mapping[str, str]] = {}  # by place: the hashes that this process has read or written


@dataclass(frozen=True)
class HashesRecord:
    """The file. hashes: those in `known_digests` of the files below `place`, with their paths from there."""

    place: str
    hashes: Mapping[str, str]

    def problem(self) -> str:
        is_known = all(map(_KNOWN.fullmatch, self.hashes.values()))
        return "" if is_known else "a hash has other parts than size, inode, times of change and digits"


def sha256_of(path: Path, check: Callable[[bytes], None] | None = None) -> bytes:
    """Return the SHA-256 of the file `path`, 32 bytes. Raises DataError if it cannot be read.

    check: called with the bytes, unless the hash is known. Its error is raised, and the hash does not become known.
    """
    return bytes.fromhex(_digest(path, "sha256", check))


def md5_of(path: Path) -> str:
    """Return the MD5 of the file `path`, 32 hex digits, to compare with a published one. Raises as `sha256_of` does."""
    return _digest(path, "md5")


def _digest(path: Path, algorithm: str, check: Callable[[bytes], None] | None = None) -> str:
    try:
        return file_digest(path, algorithm, check)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); {REDOWNLOAD}") from error


def read_hashes(place: Path, cache: Path | None) -> None:
    """Read the hashes of the files below `place` that an earlier process has written to the folder `cache`.

    `write_hashes` writes them, and those that this process computes, even to a folder that does not exist yet.
    """
    place = place.absolute()
    _stored.setdefault(place, {})
    if cache is None:
        return
    path = _path_in(cache, place)
    try:
        record = read_record(HashesRecord, path)
    except DamagedFile:
        _log.warning("%s: damaged, hashing the files again", path)
        return
    if record is not None and record.place == _resolved(place):
        _stored[place], prefix = record.hashes, f"{place}{os.sep}"
        for key, known in record.hashes.items():
            algorithm, _, name = key.partition(" ")
            known_digests.setdefault(f"{algorithm} {prefix}{name}", known)


def write_hashes(cache: Path) -> None:
    """Write the hashes of the files below each place of `read_hashes` to the folder `cache`, if there are new ones."""
    for place, stored in list(_stored.items()):
        path, hashes, prefix = _path_in(cache, place), {}, f"{place}{os.sep}"
        for key, known in known_digests.items():
            algorithm, _, name = key.partition(" ")
            if name.startswith(prefix):
                hashes[f"{algorithm} {name.removeprefix(prefix)}"] = known
        if hashes == stored:
            continue
        try:
            write_record(path, HashesRecord(_resolved(place), hashes))
            _stored[place] = hashes
        except OSError as error:
            _log.warning("%s: could not be written (%s), continuing without it", path, error)


def _path_in(cache: Path, place: Path) -> Path:
    return cache / f"{hashlib.sha256(os.fsencode(_resolved(place))).hexdigest()[:16]}-hashes.json"


def _resolved(place: Path) -> str:
    return str(place.resolve())  # the copy of a job's data folder may be a link to the place
