"""Keep a Ray cluster private by a folder that only its user can enter, with the token of ray_token.py in it.

Ray makes its temporary folder writable for everyone (0777), so that folder is inside another one of mode 0700.

    /tmp/rk-UID-JOBID/            a Slurm job's Ray cluster: token, ray/ (Ray's --temp-dir); see job_folder.py
    /tmp/raykd-UID/command-ID/    one command's Ray cluster outside Slurm: token; Ray's --temp-dir is /tmp/raykd-UID/ray

Ray's state API reads the address of the cluster from $TMPDIR/ray/ray_current_cluster. Without this file it connects to
any Ray cluster of the machine, or fails if there are several. `ray start` writes it into the job's folder, and
`write_current_cluster` into a command's folder.
"""

import errno
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from raykd.cluster.private_folders import claimed, require_safe_place
from raykd.cluster.ray_internals import CURRENT_CLUSTER
from raykd.cluster.ray_token import make_token, write_token
from raykd.disk.lookup import is_folder
from raykd.errors import ConfigError, RaykdError, RayNotStarted

_BAD_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)
MAX_TEMP_DIR_CHARACTERS = 43  # Ray appends up to 64 characters, and a Unix socket's path has at most 107


def base_folder(environ: Mapping[str, str]) -> Path:
    """Return RAYKD_TMP, or /tmp if it is not set."""
    return Path(environ.get("RAYKD_TMP") or "/tmp")


def require_short(temp_dir: Path, environ: Mapping[str, str]) -> None:
    """Raise ConfigError if Ray cannot use `temp_dir`, because it is relative or too long for Ray's sockets."""
    if not temp_dir.is_absolute() or len(str(temp_dir)) > MAX_TEMP_DIR_CHARACTERS:
        raise ConfigError(
            f"RAYKD_TMP = '{environ.get('RAYKD_TMP')}': must be an absolute path so short that {temp_dir} has at most "
            f"{MAX_TEMP_DIR_CHARACTERS} characters (Ray's sockets); unset it to use /tmp"
        )


@contextmanager
def private_folder(path: Path, token: str) -> Iterator[None]:
    """Make the folder `path` (0700) with `token`, or a new one, in it (0600); remove the folder at the end.

    A folder of that name that this user's earlier process left is replaced. Raises ConfigError if it cannot be made,
    RayNotStarted if the disk is full or broken.
    """
    with ExitStack() as stack:
        try:
            require_safe_place(path.parent)
            # A link or another user's folder stays, and mkdir then fails.
            if is_folder(path) and not path.is_symlink() and path.stat().st_uid == os.getuid():
                shutil.rmtree(path)
            path.mkdir(mode=0o700)
            is_ours = stack.enter_context(claimed(path))
            write_token(path, token or make_token())
        except OSError as error:
            raise _not_made(f"the private folder {path}", error) from error
        try:
            yield
        finally:
            if is_ours():  # another process of the same job may have replaced it
                shutil.rmtree(path, ignore_errors=True)


def _not_made(folder: str, error: OSError) -> RaykdError:
    """Return the error for a folder that cannot be made; RayNotStarted if the node's disk is full or broken."""
    kind = RayNotStarted if error.errno in _BAD_DISK else ConfigError
    return kind(f"cannot make {folder}: {error.strerror}; set RAYKD_TMP to a short local folder")


def commands_folder(environ: Mapping[str, str]) -> Path:
    """Make and return RAYKD_TMP/raykd-<uid> (0700), which holds the folders of this user's commands.

    Raises ConfigError if it cannot be made, is too long for Ray's sockets, or is open to other users.
    """
    folder = base_folder(environ) / f"raykd-{os.getuid()}"
    require_short(folder / "ray", environ)
    try:
        require_safe_place(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise _not_made(str(folder), error) from error
    if status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise ConfigError(f"{folder} is open to other users; remove it, or set RAYKD_TMP to another folder")
    return folder


def write_current_cluster(folder: Path, address: str) -> None:
    """Write `address`, HOST:PORT of the GCS, to the file where Ray's processes with TMPDIR=`folder` look for it."""
    file = folder / CURRENT_CLUSTER
    file.parent.mkdir(exist_ok=True)
    file.write_text(address)
