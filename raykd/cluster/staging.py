"""Code and data on a node's own scratch for as long as the job runs; results never go there.

RAYKD_SCRATCH (slurm/site.sh takes TMPDIR) names a folder that every node has, on a disk of its own or a shared one;
empty, nothing is staged. The code is then what it was at the job's start: edit on while the job runs. A job that keeps
its Ray for experiments to come does not stage the code, which may be edited between them.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from raykd.cluster.slurm import Allocation
from raykd.errors import ConfigError
from raykd.provenance import git_revision

CODE = ("raykd", "experiments")
# What `prefetch` lays down and the loader looks for; a folder of data may hold much else.
DATA = ("cifar10", "cifar-10-batches-py", "cifar-10-python.tar.gz", "*.parquet", "weights")
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

    def to_json(self) -> str:
        return json.dumps({name: str(path) for name, path in vars(self).items() if path})

    @classmethod
    def from_json(cls, text: str) -> "Staging":
        found = json.loads(text)
        paths = {name: Path(found[name]) if name in found else None for name in ("repository", "data")}
        return cls(Path(found["folder"]), **paths)

    @contextmanager
    def filled(self) -> Iterator[float]:
        """Fill the folder here, give its megabytes, and remove it at the end. Raises ConfigError when it cannot be."""
        code = [self.repository / name for name in CODE] if self.repository else []
        sources = [(path, self._aside / "code" / path.name) for path in code]
        sources += [(path, self._aside / "data" / path.name) for path in _data_in(self.data)]
        try:
            size = sum(_bytes(source) for source, _ in sources)
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            if (free := shutil.disk_usage(self.folder.parent).free) < 1.1 * size:
                raise OSError(0, f"{free / MEGABYTE:.0f} MB are free, and {size / MEGABYTE:.0f} are wanted")
            self._fill(sources)
        except OSError as error:
            shutil.rmtree(self._aside, ignore_errors=True)
            raise ConfigError(
                f"cannot stage to {self.folder}: {error.strerror}; set RAYKD_SCRATCH to a folder with room, or to '' "
                "to stage nothing"
            ) from error
        try:
            yield size / MEGABYTE
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def _aside(self) -> Path:
        return self.folder.with_name(f".{self.folder.name}-{os.uname().nodename}-{os.getpid()}")

    def _fill(self, sources: list[tuple[Path, Path]]) -> None:
        """Under another name first: on a disk that nodes share, one of them comes first and the others find it."""
        self._aside.mkdir(mode=0o700)
        for source, target in sources:
            target.parent.mkdir(exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(source, target)
        if self.repository:
            _keep_revision(self.repository / ".git", self._aside / "code" / ".git")
        try:
            self._aside.rename(self.folder)
        except OSError:
            if not self.folder.is_dir():
                raise
            shutil.rmtree(self._aside)


def planned_staging(allocation: Allocation, environ: Mapping[str, str], with_code: bool) -> Staging | None:
    """What `environ` asks for; None where it names no scratch. Another folder after each requeue."""
    scratch = environ.get("RAYKD_SCRATCH")
    if not scratch:
        return None
    if not Path(scratch).is_absolute():
        raise ConfigError(f"RAYKD_SCRATCH is '{scratch}': wants an absolute path, or '' to stage nothing")
    name = f"rk-{os.getuid()}-{allocation.job_id}-files-{allocation.restart_count}"
    data = allocation.submit_dir / (environ.get("RAYKD_DATA") or "data")
    repository = allocation.submit_dir if with_code else None
    return Staging(Path(scratch) / name, repository, data if _data_in(data) else None)


def _data_in(folder: Path | None) -> list[Path]:
    return sorted(path for pattern in DATA for path in folder.glob(pattern)) if folder else []


def _bytes(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _keep_revision(git: Path, target: Path) -> None:
    """The commit alone, as a checkout without a branch has it: a run's record names it."""
    if revision := git_revision(git):
        target.mkdir()
        (target / "HEAD").write_text(revision + "\n")
