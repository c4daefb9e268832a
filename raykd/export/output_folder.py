"""Where an export goes: a folder that is new, empty, or an earlier export, filled aside and renamed into place."""

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
_CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS)


def require_place(output: Path, overwrite: bool, files: set[str]) -> None:
    """Raise ConfigError for a place where an export would cost somebody something; changes nothing.

    files: what exports write, of whatever format: a folder with anything else in it is never replaced.
    """
    try:
        held = sorted(path.name for path in output.iterdir())
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigError(f"--output '{output}' is no folder to write to ({error.strerror}); name another") from None
    if held and not overwrite:
        raise ConfigError(f"--output '{output}' is not empty; name another, or replace it with --overwrite")
    if strange := [name for name in held if name not in files]:
        raise ConfigError(
            f"--output '{output}' holds '{strange[0]}', which no export wrote, and is not replaced; name another"
        )


@contextmanager
def filling(output: Path) -> Iterator[Path]:
    """A folder to fill, which is `output` once the block ends well. Raises ConfigError where none can be made."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with replacing_folder(output) as aside:
            lock = lock_at(aside / _LOCK)
            with lock.acquire(timeout=0):
                yield aside
            (aside / _LOCK).unlink(missing_ok=True)
    except OSError as error:
        if error.errno not in _CLOSED:
            raise
        raise ConfigError(f"--output '{output}' cannot be made ({error.strerror}); name another") from None
    _remove_dead(output)


def _remove_dead(output: Path) -> None:
    """Remove what killed exports of this place left aside; one that is being filled now has its lock held."""
    for folder in output.parent.glob(f".*-{glob.escape(output.name)}"):
        mine = re.fullmatch(r"\.[0-9a-f]{12}-.+", folder.name) and folder.is_dir()
        if mine and not is_locked(lock_at(folder / _LOCK)):
            shutil.rmtree(folder)
