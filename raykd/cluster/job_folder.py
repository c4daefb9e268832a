"""The private folder of a job on one node: the token, Ray's temporary files and, on the head's node, all logs."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raykd.cluster.private_folders import remove_abandoned_below
from raykd.cluster.private_ray import base_folder, private_folder, require_short
from raykd.cluster.ray_token import token_path
from raykd.disk.atomic import write_json
from raykd.errors import ConfigError

FACTS = "cluster.json"


@dataclass(frozen=True)
class JobFolder:
    """A folder that only its owner can read (0700), because with the token anyone can run code as the user."""

    path: Path

    @property
    def ray_path(self) -> Path:
        """Ray's --temp-dir. It is a subfolder, because Ray makes it writable for everyone (0777).

        Ray's state API reads the cluster's address in the subfolder of this name; see private_ray.py.
        """
        return self.path / "ray"

    @property
    def token_path(self) -> Path:
        """The file of the token. Processes receive its path; other nodes receive the token through a pipe."""
        return token_path(self.path)

    def log_path(self, node: str) -> Path:
        """Return the file with the output of `ray start` on `node`. The head's node has the logs of all nodes."""
        return self.path / f"{node}.log"

    def write_facts(self, **facts: Any) -> None:
        """Record the dashboard's port and the paths that later commands need. It must contain no secrets."""
        write_json(self.path / FACTS, facts)

    def facts(self) -> dict[str, Any]:
        """Return what `write_facts` recorded. Raises ConfigError if this job's Ray cluster is not up on this node."""
        try:
            return json.loads((self.path / FACTS).read_text())
        except OSError:
            raise ConfigError(
                f"no running Ray cluster in {self.path} on the job's node: it may still be starting; if not, set "
                "RAYKD_TMP to its value at sbatch"
            ) from None

    def token(self) -> str:
        """Return the secret for the Authorization header. Never print it, and never put it on a command line."""
        return self.token_path.read_text()


@contextmanager
def job_folder(job_id: int, environ: Mapping[str, str], token: str = "", node_number: int = 0) -> Iterator[JobFolder]:
    """Make RAYKD_TMP/rk-<uid>-<job id>[-<node number>] with `token` or a new one; remove it at the end.

    node_number: 0 on the head's node; it distinguishes nodes that share a /tmp. Folders that killed jobs of this user
    left are removed first. Raises ConfigError if RAYKD_TMP is too long for Ray's sockets or the folder cannot be made.
    """
    folder = JobFolder(folder_path(job_id, environ, node_number))
    require_short(folder.ray_path, environ)
    remove_abandoned_below(folder.path.parent)
    with private_folder(folder.path, token):
        yield folder


def folder_path(job_id: int, environ: Mapping[str, str], node_number: int = 0) -> Path:
    """Return the path of a job's folder on one of its nodes."""
    return base_folder(environ) / (f"rk-{os.getuid()}-{job_id}" + (f"-{node_number}" if node_number else ""))
