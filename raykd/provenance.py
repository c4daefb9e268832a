"""Where a result came from: versions of packages, hardware, the code."""

import hashlib
import platform
from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

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
