"""Code and data on a node's own scratch for as long as the job runs; results never go there.

RAYKD_SCRATCH (slurm/site.sh takes TMPDIR) names a folder that every node has, on a disk of its own or a shared one;
empty, nothing is staged. What is imported of raykd is then what it was at the job's start, or at its last requeue: edit
on while the job runs. A job that keeps its Ray for experiments to come does not stage the code.
"""

import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from raykd.cluster.allocation import Allocation
from raykd.cluster.private_folders import claimed, remove_abandoned_below
from raykd.errors import ConfigError
from raykd.provenance import git_revision

CODE = ("raykd", "experiments")
# What `prefetch` lays down and the loader looks for. A folder of data may hold much else, which is linked: what an
# experiment names of it is read where it lies, once for each process, and its decoded images lie with the results.
DATA = (
    "cifar10",
    "cifar-10-batches-py",
    "cifar-10-python.tar.gz",
    "cifar100",
    "cifar-100-python",
    "cifar-100-python.tar.gz",
    "*.parquet",
    "weights",
)
MEGABYTE = 1e6


@dataclass(frozen=True)
class Staging:
    """folder: the same path on every node. repository, data: what it is filled from; None for not."""

    folder: Path
    repository: Path | None
    data: Path | None

    @property
    def code_path(self) -> Path | None:
        """Where `import raykd` works."""
        return self.folder / "code" if self.repository else None

    @property
    def data_path(self) -> Path | None:
        """For RAYKD_DATA."""
        return self.folder / "data" if self.data else None

    def __str__(self) -> str:
        return " and ".join(name for name, path in (("code", self.repository), ("data", self.data)) if path)

    def to_json(self) -> str:
        return json.dumps({name: str(path) for name, path in vars(self).items() if path})

    @classmethod
    def from_json(cls, text: str) -> "Staging":
        found = json.loads(text)
        paths = {name: Path(found[name]) if name in found else None for name in ("repository", "data")}
        return cls(Path(found["folder"]), **paths)

    @contextmanager
    def filled(self) -> Iterator[float]:
        """Fill the folder here, give its megabytes, and remove it at the end. Raises ConfigError when it cannot be.

        On a disk that nodes share, the first fills and removes it, which is the head: it starts before the others.
        """
        with ExitStack() as claim:
            try:
                self._remove_earlier()
                remove_abandoned_below(self.folder.parent)
                if is_ours := not self._is_there():
                    is_ours = self._fill(claim)
                size = _bytes(self.folder)
            except OSError as error:
                raise ConfigError(
                    f"cannot stage to {self.folder}: {error.strerror or error}; set RAYKD_SCRATCH to a folder with "
                    "room, or to '' to stage nothing"
                ) from error
            try:
                yield size / MEGABYTE
            finally:
                if is_ours:
                    shutil.rmtree(self.folder, ignore_errors=True)

    def _remove_earlier(self) -> None:
        """What runs of this job before its requeue have left on a node that was lost to them."""
        stem, _, restarts = self.folder.name.rpartition("-")
        for number in range(int(restarts)):
            shutil.rmtree(self.folder.with_name(f"{stem}-{number}"), ignore_errors=True)

    def _is_there(self) -> bool:
        """Whether it is filled already; raises OSError when it may be somebody else's, whose code would run here."""
        try:
            found = self.folder.lstat()
        except FileNotFoundError:
            return False
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise OSError(0, "it is there, and open to others than you")
        return True

    def _fill(self, claim: ExitStack) -> bool:
        """Fill it under another name, then rename it. Return whether this process's copy became the folder.

        claim: receives the mark that the folder is in use.
        """
        code = [self.repository / name for name in CODE] if self.repository else []
        sources = [("code", path) for path in code] + [("data", path) for path in _data_in(self.data)]
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        size, free = sum(_bytes(path) for _, path in sources), shutil.disk_usage(self.folder.parent).free
        if free < 1.1 * size:
            raise OSError(0, f"{free / MEGABYTE:.0f} MB are free, and {size / MEGABYTE:.0f} are wanted")
        aside = Path(tempfile.mkdtemp(prefix=f".{self.folder.name}-", dir=self.folder.parent))  # 0700
        try:
            claim.enter_context(claimed(aside))
            for kind, source in sources:
                (aside / kind).mkdir(exist_ok=True)
                _copy(source, aside / kind / source.name)
            for other in _others_in(self.data):
                (aside / "data" / other.name).symlink_to(other.resolve())
            if self.repository:
                _keep_revision(self.repository / ".git", aside / "code" / ".git")
            try:
                aside.rename(self.folder)
            except OSError:
                if self._is_there():
                    return False
                raise
            return True
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def _copy(source: Path, target: Path) -> None:
    """Hidden files are an editor's: its locks are links that lead nowhere."""
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    else:
        shutil.copy2(source, target)


def planned_staging(allocation: Allocation, environ: Mapping[str, str], with_code: bool) -> Staging | None:
    """What `environ` asks for; None where it names no scratch, or there is nothing to stage.

    Another folder after each requeue.
    """
    scratch = environ.get("RAYKD_SCRATCH")
    if not scratch:
        return None
    if not Path(scratch).is_absolute():
        raise ConfigError(f"RAYKD_SCRATCH is '{scratch}': wants an absolute path, or '' to stage nothing")
    name = f"rk-{os.getuid()}-{allocation.job_id}-files-{allocation.restart_count}"
    data: Path | None = allocation.submit_dir / (environ.get("RAYKD_DATA") or "data")
    data = data if _data_in(data) else None
    repository = allocation.submit_dir if with_code else None
    return Staging(Path(scratch) / name, repository, data) if repository or data else None


def _data_in(folder: Path | None) -> list[Path]:
    return sorted(path for pattern in DATA for path in folder.glob(pattern)) if folder else []


def _others_in(folder: Path | None) -> list[Path]:
    copied = _data_in(folder)
    return [path for path in sorted(folder.iterdir()) if path not in copied] if folder else []


def _bytes(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _keep_revision(git: Path, target: Path) -> None:
    """The commit alone, as a checkout without a branch has it: a run's record names it."""
    if revision := git_revision(git):
        target.mkdir()
        (target / "HEAD").write_text(revision + "\n")
