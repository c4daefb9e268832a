"""The job's private folder on a node: Ray's temporary files, the cluster's token; on the head's, the nodes' logs."""

import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raykd.atomic import write_json
from raykd.cluster.private_folders import claimed, remove_abandoned_below
from raykd.errors import ConfigError

MAX_PATH_CHARACTERS = 43  # Ray adds up to 64, and a Unix socket's path ends at 107


@dataclass(frozen=True)
class JobFolder:
    """Readable by its owner alone (0700): whoever has the token runs code on the cluster as the user."""

    path: Path

    @property
    def ray_path(self) -> Path:
        """Ray's --temp-dir. One below, because Ray makes it writable for everyone (0777)."""
        return self.path / "r"

    @property
    def token_path(self) -> Path:
        """64 hexadecimal digits, mode 0600; handed on by path, to other nodes through a pipe."""
        return self.path / "token"

    def log_path(self, node: str) -> Path:
        """What `ray start` on `node` prints; the logs of all nodes are on the head's."""
        return self.path / f"{node}.log"

    def write_facts(self, **facts: Any) -> None:
        """For commands that come later: where the cluster's doors are. No secrets."""
        write_json(self._facts_path, facts)

    def facts(self) -> dict[str, Any]:
        """What `write_facts` left. Raises: ConfigError when this node has no such cluster, or none that is up."""
        try:
            return json.loads(self._facts_path.read_text())
        except OSError:
            raise ConfigError(
                f"no cluster that is up in {self.path} on the job's node; is it still starting? RAYKD_TMP must be here "
                "what it was at sbatch"
            ) from None

    @property
    def _facts_path(self) -> Path:
        return self.path / "cluster.json"

    def token(self) -> str:
        """The secret itself, for the Authorization header. Never print it, never put it on a command line."""
        return self.token_path.read_text()


@contextmanager
def job_folder(job_id: int, environ: Mapping[str, str], token: str = "", node_number: int = 0) -> Iterator[JobFolder]:
    """RAYKD_TMP/rk-<uid>-<job id>[-<node number>] with `token`, or a fresh one; removed at the end.

    RAYKD_TMP is /tmp unless set. The head's node has number 0; numbers, for nodes that share a /tmp. Folders of the
    user's jobs that were killed are removed first.

    Raises: ConfigError when RAYKD_TMP is too long for Ray's sockets or the folder cannot be made there.
    """
    path = folder_path(job_id, environ, node_number)
    folder = JobFolder(path)
    if not path.is_absolute() or len(str(folder.ray_path)) > MAX_PATH_CHARACTERS:
        raise ConfigError(
            f"RAYKD_TMP is '{environ.get('RAYKD_TMP')}': expected an absolute path so short that {folder.ray_path} has "
            f"at most {MAX_PATH_CHARACTERS} characters (Ray's sockets); unset it to use /tmp"
        )
    with ExitStack() as claim:
        try:
            remove_abandoned_below(path.parent)
            _remove_own(path)  # left by an earlier run of a requeued job whose node was lost
            path.mkdir(mode=0o700)
            is_ours = claim.enter_context(claimed(path))
            with os.fdopen(os.open(folder.token_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(token or secrets.token_hex(32))
        except OSError as error:
            raise ConfigError(
                f"cannot make the job's folder {path}: {error.strerror}; set RAYKD_TMP to a short local folder"
            ) from error
        try:
            yield folder
        finally:
            if is_ours():  # Ray may have been started again on this node, with a folder of the same name
                shutil.rmtree(path, ignore_errors=True)


def folder_path(job_id: int, environ: Mapping[str, str], node_number: int = 0) -> Path:
    """Where a job's folder is on a node of its."""
    base = environ.get("RAYKD_TMP") or "/tmp"
    return Path(base) / (f"rk-{os.getuid()}-{job_id}" + (f"-{node_number}" if node_number else ""))


def _remove_own(path: Path) -> None:
    """Only a real folder of this user's: another's stays, and mkdir then says that it exists."""
    if path.is_dir() and not path.is_symlink() and path.stat().st_uid == os.getuid():
        shutil.rmtree(path)
