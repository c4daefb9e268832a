"""Copies of code and data on a node's scratch space for as long as the job runs. Results never go there.

RAYKD_SCRATCH is a folder on every node, on a local or a shared disk; if it is empty, nothing is staged. By default it
is TMPDIR, if that is on a local disk: Slurm passes the TMPDIR of the login node to the job, if it is exported, and that
may be in memory or on a shared filesystem. A job imports the raykd of its start or of its last requeue, so users may
edit the code while it runs. A job that accepts experiments does not stage the code. If staging fails, the job reads
code and data in place.
"""

import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from raykd.cluster.allocation import Allocation
from raykd.cluster.private_folders import claimed, remove_abandoned_below, require_safe_place
from raykd.data.memory import free_bytes
from raykd.disk.lookup import is_file, is_folder
from raykd.disk.mounts import mount_of
from raykd.errors import ConfigError, one_line
from raykd.provenance import git_revision
from raykd.units import capacity

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

    def _result(self, failure: str) -> str:
        """Return the line about what was staged. failure: why files are linked instead of copied, or ''."""
        if failure:
            return f"warning: {self} not staged to {self.folder} but read in place ({failure})"
        if not str(self):
            return f"{self.folder} made for packed data sets"
        return f"{self} ({capacity(_bytes(self.folder))}) staged to {self.folder}"

    def to_json(self) -> str:
        return json.dumps({name: str(path) for name, path in vars(self).items() if path})

    @classmethod
    def from_json(cls, text: str) -> "Staging":
        return cls(**{name: Path(path) for name, path in json.loads(text).items()})

    @contextmanager
    def filled(self) -> Iterator[str]:
        """Fill the folder, yield a line for the log, and remove the folder at the end.

        On a shared disk the first node fills and removes it. That is the head, which starts before the workers. Files
        that cannot be copied, such as to a full disk, are linked. Raises ConfigError if the folder cannot be made.
        """
        with ExitStack() as claim:
            failure = ""
            try:
                self._remove_leftovers()
                remove_abandoned_below(self.folder.parent)
                is_ours = not self._is_filled()
                if is_ours:
                    self.folder.parent.mkdir(parents=True, exist_ok=True)
                    require_safe_place(self.folder.parent)
                    try:
                        is_ours = self._fill(_copy, claim)
                    except OSError as error:
                        failure = error.strerror or str(error)
                        is_ours = self._fill(_link, claim)
                result = self._result(failure)
            except OSError as error:
                raise ConfigError(
                    f"cannot stage to {self.folder}: {error.strerror or error}; set RAYKD_SCRATCH to a folder with "
                    "enough space, or to '' to stage nothing"
                ) from error
            try:
                yield result
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

    def _fill(self, put: Callable[[Path, Path], None], claim: ExitStack) -> bool:
        """Fill the folder under another name, then rename it. Return whether this process's copy became the folder.

        put: _copy or _link. claim: receives the lock that marks the folder as in use.
        """
        code, data = [self.repository / name for name in CODE] if self.repository else [], _data_in(self.data)
        sources = [("code", path) for path in code] + [("data", path) for path in data]
        size, free = sum(_bytes(path) for _, path in sources), free_bytes(self.folder.parent)
        if put is _copy and free < 1.1 * size:
            raise OSError(0, f"{capacity(free)} are free, but {capacity(size)} are required")
        temporary = Path(tempfile.mkdtemp(prefix=f".{self.folder.name}-", dir=self.folder.parent))  # 0700
        try:
            claim.enter_context(claimed(temporary))
            for kind, source in sources:
                (temporary / kind).mkdir(exist_ok=True)
                put(source, temporary / kind / source.name)
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


def _link(source: Path, target: Path) -> None:
    target.symlink_to(source.resolve())


def scratch_folder(environ: Mapping[str, str]) -> tuple[str, str]:
    """Return RAYKD_SCRATCH, else TMPDIR if it is on a local disk, else '', and why TMPDIR is not used, or ''."""
    scratch, temporary = environ.get("RAYKD_SCRATCH"), environ.get("TMPDIR", "")
    if scratch is not None or not temporary:
        return scratch or "", ""
    mount = mount_of(Path(temporary))
    if mount is None or mount.is_local_disk:
        return temporary, ""
    place = f"TMPDIR={one_line(temporary)} is {'in memory' if mount.is_in_memory else 'not on a local disk'}"
    return "", f"nothing is staged: {place} ({mount.kind}); set RAYKD_SCRATCH in slurm/site.sh to a local disk"


def planned_staging(allocation: Allocation, environ: Mapping[str, str], with_code: bool) -> Staging | None:
    """Return the staging that `environ` requests, or None without scratch space.

    If there is neither code nor data to stage, the folder is for copies of packed data sets only.
    """
    scratch, _ = scratch_folder(environ)
    if not scratch:
        return None
    if not Path(scratch).is_absolute():
        raise ConfigError(f"RAYKD_SCRATCH = '{scratch}': must be an absolute path, or '' to stage nothing")
    name = f"rk-{os.getuid()}-{allocation.job_id}-files-{allocation.restart_count}"
    data: Path | None = allocation.submit_dir / (environ.get("RAYKD_DATA") or "data")
    data = data if _data_in(data) else None
    has_code = is_folder(allocation.submit_dir / CODE[0])
    repository = allocation.submit_dir if with_code and has_code else None
    return Staging(Path(scratch) / name, repository, data)


def _data_in(folder: Path | None) -> list[Path]:
    return sorted(path for pattern in DATA for path in folder.glob(pattern)) if folder else []


def _bytes(path: Path) -> int:
    if is_file(path):
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if is_file(file))
