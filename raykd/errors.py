"""Errors that raykd raises, their exit codes, and the 'did you mean' of their messages.

Exit codes: 0 done, 1 a run failed, 2 an error of the user, 75 interrupted (rerun the same command to resume).

Wording that messages share: counts with their noun, values in one short line, and the reason of an error.

Experiment files and custom methods: whatever they raise becomes one line, with the line of the file.

with errors_of("experiment file 'mine.py'", "mine.py"):
    runpy.run_path("mine.py")
"""

import errno
import stat
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import SequenceMatcher, get_close_matches
from pathlib import Path
from typing import Any

MAX_SHOWN = 100  # characters of a value in a message: a line on a terminal stays readable
MAX_REASON = 300  # characters of another library's message


def plural(count: float, noun: str, nouns: str = "") -> str:
    """'1 run', '1,200 runs', '0.5 GPUs'; `nouns` where s is not enough: plural(2, 'pass', 'passes')."""
    number = f"{count:,}" if isinstance(count, int) else f"{count:.4g}"
    return f"{number} {noun if count == 1 else nouns or noun + 's'}"


def one_line(text: str) -> str:
    """`text` with each character that cannot be printed, such as a line break, replaced by its escape sequence."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def flattened(text: str, most: int = MAX_REASON) -> str:
    """Return `text` for the report: white space and unprintable characters become single spaces, and a long end "...".

    `one_line` keeps such characters readable as escape sequences, for messages about a value; a table needs the width.
    """
    flat = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return flat if len(flat) <= most else f"{flat[: most - 3]}..."


def shortened(text: str, most: int = MAX_SHOWN) -> str:
    """`text`, or its beginning where it is longer than `most` characters."""
    return text if len(text) <= most else f"{text[:most]}... ({len(text)} characters)"


def shown(value: Any) -> str:
    """`repr(value)` in one short line; some values, such as integers of 5,000 digits, have no repr."""
    try:
        return one_line(shortened(repr(value)))
    except Exception:  # noqa: BLE001 - a custom class may raise anything
        return f"a value of type {type(value).__name__} that cannot be printed"


def reason_of(error: BaseException) -> str:
    """The error's type and the first line of its message: 'ValueError: too few values'."""
    try:
        lines = str(error).strip().splitlines()
    except Exception:  # noqa: BLE001 - a custom error may raise anything
        lines = []
    return f"{type(error).__name__}: {one_line(shortened(lines[0], MAX_REASON)) if lines else 'no reason given'}"


# What the machine, a disk, a quota or a network does to a correct program. All other OSErrors, such as a missing file
# that the code expected, are mistakes in the code, and keep their traceback.
_ENVIRONMENT_NAMES = """
    ENOSPC EDQUOT EFBIG EIO EROFS EACCES EPERM ESTALE ENOMEM EMFILE ENFILE ENOLCK EBUSY ENODEV ENXIO EREMOTEIO
    ENAMETOOLONG ELOOP ENOTCONN ESHUTDOWN ETIMEDOUT ECONNREFUSED ECONNRESET EHOSTDOWN EHOSTUNREACH ENETDOWN
    ENETUNREACH EADDRINUSE EADDRNOTAVAIL ENOTSUP ENOSYS
"""
_ENVIRONMENT = frozenset(getattr(errno, name) for name in _ENVIRONMENT_NAMES.split())
RESUME = "what was saved is kept; rerun the same command once this is put right"


class RaykdError(Exception):
    """Anything that ends a command with one line instead of a traceback."""

    exit_code = 1


class ConfigError(RaykdError, ValueError):
    """A field, flag or file of the user's that cannot work: names field, value and remedy."""

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class RejectedConfiguration(ConfigError):
    """The configuration of one run cannot be trained: its model, its method or its adapter cannot be made."""


class DataError(ConfigError):
    """Images or labels that are missing, cut short, or not what their layout promises."""


class RunFailed(RaykdError):
    """A run that ended without its result: NaN, a lost worker, an error in the code."""


class RunDiverged(RunFailed):
    """Training or validation became NaN or infinite: with the same configuration and seed it would again."""


class Interrupted(RaykdError):
    """A signal, a time limit or a lost node interrupted the command; rerun the same command to resume."""

    exit_code = 75


class RayNotStarted(RaykdError):
    """Ray did not start, or not in time. Nothing is lost: rerun the same command to resume."""

    exit_code = 75


def did_you_mean(name: str, known: Iterable[str], numbered: bool = False) -> str:
    """'; did you mean 'X'?' for the known name that a typing mistake may have turned into `name`, else ''.

    A typing mistake changes one character in four at most. numbered: known names differ in their numbers ('resnet8',
    'resnet18'), so a name with other digits is another thing and no typing mistake.
    """
    candidates = [other for other in known if not numbered or _digits(other) == _digits(name)]
    near = get_close_matches(name, candidates, n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near and _is_typing_mistake(name, near[0]) else ""


def _is_typing_mistake(name: str, other: str) -> bool:
    same = sum(block.size for block in SequenceMatcher(None, name, other).get_matching_blocks())
    longest = max(len(name), len(other))
    return longest - same <= max(1, longest // 4)


def _digits(name: str) -> str:
    return "".join(letter for letter in name if letter.isdigit())


def is_environment_error(error: BaseException) -> bool:
    """Return whether `error` comes from a disk, a quota, rights or a network, and not from a mistake in the code."""
    if not isinstance(error, OSError):
        return False
    cause = getattr(error, "reason", None)  # urllib's errors hold the socket's
    if error.errno is None and isinstance(cause, OSError):
        return is_environment_error(cause)
    return isinstance(error, ConnectionError | TimeoutError) or (error.errno or 0) in _ENVIRONMENT


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
