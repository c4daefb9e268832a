"""Experiment files and custom methods: whatever they raise becomes one line, with the line of the file.

with errors_of("experiment file 'mine.py'", "mine.py"):
    runpy.run_path("mine.py")
"""

import stat
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from raykd.errors import ConfigError, RaykdError
from raykd.messages import one_line, reason_of, shortened, shown

_being_read: list[str] = []  # files, the innermost last


@contextmanager
def errors_of(what: str, path: str = "") -> Iterator[None]:
    """Raise ConfigError, with the line of the file `path` where it has one, for whatever the block raises.

    what: the subject of the message. Errors of raykd pass, and so does a KeyboardInterrupt, the user's ctrl-C.
    """
    try:
        yield
    except RaykdError:
        raise
    except SystemExit as error:
        at = _at_line(path, error)
        raise ConfigError(
            f"{what} ends the process{at} (sys.exit, code {shown(error.code)}); remove that line"
        ) from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever a user's code may raise, such as asyncio.CancelledError
        raise ConfigError(f"{what} fails{_at_line(path, error)} with {reason_of(error)}") from error


@contextmanager
def reading(what: str, path: str) -> Iterator[None]:
    """`errors_of` for a block that runs the file `path`. A ConfigError raised there gets the file and its line too."""
    _being_read.append(path)
    try:
        with errors_of(what, path):
            yield
    except ConfigError as error:
        if what in str(error) or path in str(error):
            raise
        line = _line_in(path, error)
        raise type(error)(f"{what}{f', line {line}' if line else ''}: {error}") from error
    finally:
        _being_read.pop()


def is_being_read() -> bool:
    """Whether a user's file is being read now, so that nothing must be started."""
    return bool(_being_read)


def require_file(what: str, file: str | Path, remedy: str) -> Path:
    """The path of a regular file. Raises ConfigError where there is none: a folder, or a pipe, which would block.

    what: such as 'experiment file'. remedy: the end of the message.
    """
    path, named = Path(file), f"{what} '{one_line(shortened(str(file)))}'"
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(f"{named} does not exist; {remedy}") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{named} cannot be read ({reason}); {remedy}") from None
    if stat.S_ISDIR(mode):
        raise ConfigError(f"{named} is a folder; {remedy}")
    if not stat.S_ISREG(mode):
        raise ConfigError(f"{named} is a pipe, socket or device and not a regular file; {remedy}")
    return path


def _at_line(path: str, error: BaseException) -> str:
    line = _line_in(path, error)
    return f" at line {line}" if line else ""


def _line_in(path: str, error: BaseException) -> int:
    """The line of the file `path` that raised `error`, or that is no Python; 0 where it has no part in it."""
    if isinstance(error, SyntaxError) and error.filename == path:
        return error.lineno or 0
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    return (lines[-1] or 0) if lines else 0
