"""Copies of code and data on a node's scratch space for as long as the job runs. Results never go there.

RAYKD_SCRATCH (by default the job's TMPDIR, see slurm/site.sh) is a folder on every node, on a local or a shared disk;
if it is empty, nothing is staged. A job imports the raykd of its start or of its last requeue, so users may edit the
code while it runs. A job that accepts experiments does not stage the code.
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
from raykd.cluster.private_folders import claimed, remove_abandoned_below, require_safe_place
from raykd.errors import ConfigError
from raykd.on_disk import is_file, is_folder
from raykd.provenance import git_revision

CODE = ("raykd", "experiments")  # of a checkout; a project of `init` has no raykd, and imports the installed one
# The data that `prefetch` downloads. Everything else in the data folder is linked and read in place, once per process;
# its decoded images are stored with the results.
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
    """The files that a job stages, and the folder for them.

    folder: the same path on every node. repository, data: the folders that are copied, None for one that is not.
    """

    folder: Path
    repository: Path | None = None
    data: Path | None = None

    @property
    def code_path(self) -> Path | None:
        """The folder from which raykd is imported."""
        return self.folder / "code" if self.repository else None

    @property
    def data_path(self) -> Path | None:
        """The value of RAYKD_DATA."""
        return self.folder / "data" if self.data else None

    @property
    def packs_path(self) -> Path:
        """The folder to which processes of the job copy packed data sets, see data/packs/node_copy.py."""
        return self.folder / "packs"

    def __str__(self) -> str:
        return " and ".join(name for name, path in (("code", self.repository), ("data", self.data)) if path)

    def to_json(self) -> str:
        return json.dumps({name: str(path) for name, path in vars(self).items() if path})

    @classmethod
    def from_json(cls, text: str) -> "Staging":
        return cls(**{name: Path(path) for name, path in json.loads(text).items()})

    @contextmanager
    def filled(self) -> Iterator[float]:
        """Fill the folder, yield its size in megabytes, and remove it at the end. Raises ConfigError if that fails.

        On a shared disk the first node fills and removes it. That is the head, which starts before the workers.
        """
        with ExitStack() as claim:
            try:
                self._remove_leftovers()
                remove_abandoned_below(self.folder.parent)
                is_ours = not self._is_filled() and self._fill(claim)
                size = _bytes(self.folder)
            except OSError as error:
                raise ConfigError(
                    f"cannot stage to {self.folder}: {error.strerror or error}; set RAYKD_SCRATCH to a folder with "
                    "enough space, or to '' to stage nothing"
                ) from error
            try:
                yield size / MEGABYTE
            finally:
                if is_ours:
                    shutil.rmtree(self.folder, ignore_errors=True)

    def _remove_leftovers(self) -> None:
        """Remove the folders that this job left on lost nodes before it was requeued."""
        stem, _, restarts = self.folder.name.rpartition("-")
        for number in range(int(restarts)):
            shutil.rmtree(self.folder.with_name(f"{stem}-{number}"), ignore_errors=True)

    def _is_filled(self) -> bool:
        """Return whether another node filled the folder. Raises OSError if another user could have put code there."""
        try:
            require_safe_place(self.folder.parent)
            status = self.folder.lstat()
        except FileNotFoundError:
            return False
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
            raise OSError(0, "it already exists and is open to other users")
        return True

    def _fill(self, claim: ExitStack) -> bool:
        """Fill the folder under another name, then rename it. Return whether this process's copy became the folder.

        claim: receives the lock that marks the folder as in use.
        """
        code, data = [self.repository / name for name in CODE] if self.repository else [], _data_in(self.data)
        sources = [("code", path) for path in code] + [("data", path) for path in data]
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        require_safe_place(self.folder.parent)
        size, free = sum(_bytes(path) for _, path in sources), shutil.disk_usage(self.folder.parent).free
        if free < 1.1 * size:
            raise OSError(0, f"{free / MEGABYTE:.0f} MB are free, but {size / MEGABYTE:.0f} MB are required")
        temporary = Path(tempfile.mkdtemp(prefix=f".{self.folder.name}-", dir=self.folder.parent))  # 0700
        try:
            claim.enter_context(claimed(temporary))
            for kind, source in sources:
                (temporary / kind).mkdir(exist_ok=True)
                _copy(source, temporary / kind / source.name)
            for path in sorted(self.data.iterdir()) if self.data else []:
                if path not in data:
                    (temporary / "data" / path.name).symlink_to(path.resolve())
            if self.repository and (revision := git_revision(self.repository / ".git")):  # recorded in every run
                (temporary / "code" / ".git").mkdir()
                (temporary / "code" / ".git" / "HEAD").write_text(revision + "\n")  # as in a checkout without a branch
            try:
                temporary.rename(self.folder)
            except OSError:
                if not self._is_filled():
                    raise
                return False
            return True
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _copy(source: Path, target: Path) -> None:
    """Copy a file or folder without hidden files, such as the locks of editors, which are broken links."""
    if is_folder(source):
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    else:
        shutil.copy2(source, target)


def planned_staging(allocation: Allocation, environ: Mapping[str, str], with_code: bool) -> Staging | None:
    """Return the staging that `environ` requests; None without scratch space, or if there is nothing to stage."""
    scratch = environ.get("RAYKD_SCRATCH")
    if not scratch:
        return None
    if not Path(scratch).is_absolute():
        raise ConfigError(f"RAYKD_SCRATCH = '{scratch}': must be an absolute path, or '' to stage nothing")
    name = f"rk-{os.getuid()}-{allocation.job_id}-files-{allocation.restart_count}"
    data: Path | None = allocation.submit_dir / (environ.get("RAYKD_DATA") or "data")
    data = data if _data_in(data) else None
    has_code = is_folder(allocation.submit_dir / CODE[0])
    repository = allocation.submit_dir if with_code and has_code else None
    return Staging(Path(scratch) / name, repository, data) if repository or data else None


def _data_in(folder: Path | None) -> list[Path]:
    return sorted(path for pattern in DATA for path in folder.glob(pattern)) if folder else []


def _bytes(path: Path) -> int:
    if is_file(path):
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if is_file(file))
