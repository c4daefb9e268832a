"""Where a result came from: versions of packages, hardware, the code.

Checksums of files and of JSON values: how raykd notices that a file was damaged or exchanged. Imports no torch.
"""

import hashlib
import json
import platform
import time
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from raykd.config import fingerprint

PACKAGES = ("torch", "torchvision", "timm", "ray", "optuna", "pyarrow", "numpy")


@cache
def versions() -> dict[str, str]:
    """Versions of Python and of the packages that are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def identity_of(teachers: Sequence[str]) -> str:
    """Hex digits that name what taught a run: its teacher's SHA-256, or a digest of several teachers', in order."""
    return teachers[0] if len(teachers) == 1 else fingerprint(list(teachers))


def hardware(gpu: str | None) -> dict[str, str | None]:
    """The CPU's and the GPU's names."""
    return {"cpu": _cpu(), "gpu": gpu}


@cache
def source() -> dict[str, str | None]:
    """The git revision that is checked out, where there is one, and a hash of raykd's own source files.

    The hash tells a changed working tree from a clean one without asking git.
    """
    package = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    return {"revision": git_revision(package.parent / ".git"), "source_sha256": digest.hexdigest()}


def git_revision(git: Path) -> str | None:
    """The commit that the checkout with this .git is at; None where that cannot be read."""
    try:
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head
        name = head.removeprefix("ref: ")
        if (git / name).is_file():
            return (git / name).read_text().strip()
        packed = (git / "packed-refs").read_text().splitlines()
        return next((line.split()[0] for line in packed if line.endswith(f" {name}")), None)
    except OSError:  # not a checkout, or a worktree, whose .git is a file
        return None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


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
