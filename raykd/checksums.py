"""Checksums of files and of JSON values: how raykd notices that a file was damaged or exchanged. Imports no torch."""

import hashlib
import json
import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

AT_REST_S = 2.0  # a file that changed less than this ago may change again without another time of change


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of the file's bytes, 64 hex digits. A file that has not changed is hashed once per process."""
    found = path.stat()
    state = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    if time.time() - max(found.st_mtime, found.st_ctime) < AT_REST_S:
        return _file_sha256(path)
    return _cached_sha256(path.absolute(), state)


@lru_cache(maxsize=4096)
def _cached_sha256(path: Path, state: tuple[int, ...]) -> str:
    return _file_sha256(path)


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_checksum(content: Mapping[str, Any]) -> str:
    """Return a checksum of a JSON object's values, whatever the order of its fields and the white space of its file."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(canonical.encode()).hexdigest()[:32]}"
