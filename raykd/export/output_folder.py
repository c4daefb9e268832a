"""The folder of an export: it must be new, empty or an earlier export, and it is replaced as a whole.

The files are written to a temporary folder beside it, .<12 hex digits>-<name>, which is then renamed.
"""

import errno
import glob
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from raykd.disk.atomic import is_leftover, replacing_folder
from raykd.disk.file_lock import is_locked, lock_at
from raykd.disk.lookup import is_file, is_folder
from raykd.errors import ConfigError

_LOCK = ".export.lock"  # in the temporary folder; locked by the process that writes there
_MAX_UNLOCKED_S = 3600.0  # after this time, a temporary folder without a lock file is a leftover


def require_replaceable(output: Path, overwrite: bool, export_files: set[str]) -> None:
    """Raise ConfigError if an export to `output` would delete anything but an earlier export. Changes nothing.

    export_files: the file names of all formats. A folder with any other file is never replaced.
    """
    try:
        files = sorted(path.name for path in output.iterdir() if path.name != _LOCK)
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigError(
            f"--output '{output}' is not a folder that can be written ({error.strerror}); name another"
        ) from None
    if files and not overwrite:
        raise ConfigError(f"--output '{output}' is not empty; name another, or replace it with --overwrite")
    if others := [name for name in files if name not in export_files]:
        raise ConfigError(f"--output '{output}' holds '{others[0]}', which is not part of an export; name another")


@contextmanager
def writing_folder(output: Path) -> Iterator[Path]:
    """Yield a temporary folder, and rename it to `output` if the block succeeds.

    The folder is locked until it has its final name. Another export to `output` can run concurrently: it removes only
    temporary folders that no process has locked. Raises ConfigError if the folder cannot be made.
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as until_renamed:
            with replacing_folder(output) as temporary:
                until_renamed.enter_context(lock_at(temporary / _LOCK).acquire(timeout=0))
                yield temporary
            (output / _LOCK).unlink(missing_ok=True)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        raise ConfigError(f"--output '{output}' cannot be made ({error.strerror}); name another") from None
    _remove_leftovers(output)


def _remove_leftovers(output: Path) -> None:
    """Remove the temporary folders of killed exports to `output`."""
    for folder in output.parent.glob(f".*-{glob.escape(output.name)}"):
        if is_leftover(folder.name) and _is_abandoned(folder):
            shutil.rmtree(folder, ignore_errors=True)  # a concurrent export may remove it too


def _is_abandoned(folder: Path) -> bool:
    """Return whether the process that wrote the temporary folder was killed.

    An export makes its folder and then its lock file, so a folder without one may be an export that is just starting.
    """
    try:
        if is_file(folder / _LOCK):
            return not is_locked(lock_at(folder / _LOCK))
        return is_folder(folder) and time.time() - folder.stat().st_mtime > _MAX_UNLOCKED_S
    except FileNotFoundError:  # it was renamed or removed in the meantime
        return False
