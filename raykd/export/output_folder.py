"""The folder of an export. It must be new, empty or an earlier export, and is written aside and renamed."""

import errno
import glob
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from raykd.atomic import replacing_folder
from raykd.errors import ConfigError
from raykd.store.run_folder import is_locked, lock_at

_LOCK = ".lock"


def require_replaceable(output: Path, overwrite: bool, export_files: set[str]) -> None:
    """Raise ConfigError if writing to `output` would lose anything but an earlier export. Changes nothing.

    export_files: the file names of all formats. A folder with any other file is never replaced.
    """
    try:
        files = sorted(path.name for path in output.iterdir())
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
    """Yield a temporary folder that becomes `output` if the block succeeds. Raises ConfigError if none can be made.

    Its lock is held meanwhile, so that the next export can tell it from one that a killed process left behind.
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with replacing_folder(output) as temporary:
            lock = lock_at(temporary / _LOCK)
            with lock.acquire(timeout=0):
                yield temporary
            (temporary / _LOCK).unlink(missing_ok=True)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        raise ConfigError(f"--output '{output}' cannot be made ({error.strerror}); name another") from None
    _remove_leftovers(output)


def _remove_leftovers(output: Path) -> None:
    """Remove temporary folders of killed exports to `output`. Those that are still written are locked."""
    for folder in output.parent.glob(f".*-{glob.escape(output.name)}"):
        is_temporary = re.fullmatch(r"\.[0-9a-f]{12}-.+", folder.name) and folder.is_dir()
        if is_temporary and not is_locked(lock_at(folder / _LOCK)):
            shutil.rmtree(folder)
