"""Provenance of a result: versions of packages, hardware, source code, and checksums of files.

The checksums show whether a file was damaged or replaced. Imports no torch.
"""

import hashlib
import os
import platform
import re
import shlex
import socket
import sys
import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from raykd.config import fingerprint
from raykd.disk.lookup import is_file
from raykd.errors import flattened

VERSION = "0.1.0"  # of raykd, in pyproject.toml and raykd.__version__ too
PACKAGES = ("torch", "torchvision", "timm", "ray", "optuna", "pyarrow", "numpy", "transformers")
SHORT_HASH = 10  # digits
MAX_COMMAND = 1000  # characters
JOB = "RAYKD_JOB"  # environment variable: the id of the Slurm job whose Ray cluster has this process
AT_REST_S = 2.0  # seconds; a file changed more recently may change again within the resolution of its time stamps


@cache
def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages among PACKAGES."""
    by_package = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            by_package[package] = version(package)
        except PackageNotFoundError:
            continue
    return by_package


def short_hash(text: str) -> str:
    """Return the first digits of a hash or git revision, and another text unchanged."""
    return text[:SHORT_HASH] if re.fullmatch("[0-9a-f]{40,}", text) else text


def teacher_digest(weights_sha256: Sequence[str]) -> str:
    """Return the digest of a run's teachers, 64 hex digits.

    It is the SHA-256 of one teacher's weights, or a digest of the SHA-256 of several teachers' weights in order.
    """
    return weights_sha256[0] if len(weights_sha256) == 1 else fingerprint(list(weights_sha256))


def hardware(gpu: str | None) -> dict[str, str | None]:
    """Return the model names of the CPU and the GPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return {"cpu": platform.processor() or platform.machine(), "gpu": gpu}
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return {"cpu": next(names, platform.machine()), "gpu": gpu}


@cache
def source() -> dict[str, str | None]:
    """Return the git revision that is checked out, or None, and a hash of raykd's source files without experiments.

    The hash distinguishes a changed working tree from a clean one without running git.
    """
    package = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package).as_posix()
        if not name.startswith("bundled/"):  # links in a checkout, files in a copy of it and in an installed package
            digest.update(name.encode() + b"\0" + path.read_bytes())
    return {"revision": git_revision(package.parent / ".git"), "source_sha256": digest.hexdigest()}


def git_revision(git: Path) -> str | None:
    """Return the commit that is checked out in the repository with this .git folder; None if it cannot be read."""
    try:
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head
        name = head.removeprefix("ref: ")
        if is_file(git / name):
            return (git / name).read_text().strip()
        packed = (git / "packed-refs").read_text().splitlines()
        return next((line.split()[0] for line in packed if line.endswith(f" {name}")), None)
    except OSError:  # not a checkout, or a worktree, whose .git is a file
        return None


def this_process() -> str:
    """Return 'process 7 on cn1', or 'process 7 on cn1 in Slurm job 4711'."""
    job = os.environ.get(JOB)
    return f"process {os.getpid()} on {socket.gethostname()}{f' in Slurm job {job}' if job else ''}"


def command_line() -> str:
    """Return the command that started this process, quoted for a shell: 'python experiments/digits.py'.

    The script raykd, which Python runs by its path, is 'raykd'.
    In a notebook it would name the kernel's connection file, so it is 'raykd.run in a notebook' there.
    """
    if "ipykernel" in sys.modules:
        return "raykd.run in a notebook"
    words = [word.encode("utf-8", "replace").decode() for word in sys.orig_argv[1:]]
    is_script = bool(words) and Path(words[0]).name == "raykd"
    return flattened(shlex.join(["raykd", *words[1:]] if is_script else ["python", *words]), MAX_COMMAND)


# Digests of files by "<algorithm> <absolute path>", each as "<state> <digest>". The state is the file's size, inode and
# times of its last changes, so that the digest of an earlier version is never used.
known_digests: dict[str, str] = {}


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of the file's bytes, 64 hex digits; see `file_digest`."""
    return file_digest(path, "sha256")


def file_digest(path: Path, algorithm: str, check: Callable[[bytes], None] | None = None) -> str:
    """Return the digest of the file's bytes by an algorithm of hashlib, in hex.

    An unchanged file is hashed once per process, unless it was changed less than AT_REST_S seconds ago.
    check: called with the bytes if the file is read. Its error is raised, and the digest is not kept.
    """
    key, started_ns, status = f"{algorithm} {path.absolute()}", time.time_ns(), path.stat()
    state = f"{status.st_size} {status.st_ino} {status.st_mtime_ns} {status.st_ctime_ns}"
    known_state, _, digest = known_digests.get(key, "").rpartition(" ")
    if known_state == state:
        return digest
    with path.open("rb") as file:
        new = partial(hashlib.new, algorithm, usedforsecurity=False)
        if check is None:
            digest = hashlib.file_digest(file, new).hexdigest()
        else:
            check(content := file.read())
            digest = new(content).hexdigest()
    if started_ns - max(status.st_mtime_ns, status.st_ctime_ns) >= AT_REST_S * 1e9:
        known_digests[key] = f"{state} {digest}"
    return digest
