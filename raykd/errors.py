"""Errors that raykd raises, the wording of their messages, and one-line errors for code and files of the user.

Exit codes: 0 done, 1 a run failed, 2 an error of the user, 75 interrupted (rerun the same command to resume).

    with errors_of("experiment file 'mine.py'", "mine.py"):     # whatever the block raises becomes a ConfigError
        runpy.run_path("mine.py")
"""

import errno
import os
import re
import shutil
import stat
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import SequenceMatcher, get_close_matches
from pathlib import Path
from typing import Any, ClassVar, Literal

MAX_SHOWN = 100  # characters of a value in a message: a line on a terminal stays readable
MAX_REASON = 300  # characters of another library's message
RESUME = "what was saved is kept; remove the cause and rerun the same command"


def _command() -> str:
    """Return how the commands in messages begin: as this process was started, 'raykd' or 'python -m raykd'.

    A process that was started otherwise, such as `python experiments/digits.py`, looks for the script on PATH.
    """
    program = Path((sys.argv or [""])[0])
    if program.name == "__main__.py" and program.parent.name == "raykd":
        return "python -m raykd"
    return "raykd" if program.name == "raykd" or shutil.which("raykd") else "python -m raykd"


COMMAND = _command()

# ---- Errors ----

# The kinds of failure of a run, as run.json records them; training/failure.py is the policy that depends on them.
# 'code' is an error in raykd, a custom method or a library, which would occur again with the same configuration.
# 'outside' has a cause outside of the configuration, which may pass: a full disk, a damaged file, a lost GPU.
Failure = Literal["diverged", "rejected", "out of memory", "code", "outside"]


class RaykdError(Exception):
    """Base of the errors that end a command with one line instead of a traceback.

    failure: the kind of failure of a run that ends with this error.
    """

    exit_code = 1
    failure: ClassVar[Failure] = "outside"


class ConfigError(RaykdError, ValueError):
    """A field, flag or file of the user cannot work. The message names field, value and remedy."""

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class RejectedConfiguration(ConfigError):
    """The model, the method or the adapter of one run cannot be built."""

    failure = "rejected"


class CodeNotLoaded(ConfigError):
    """A file names a user's class that this process has not loaded. Nothing in a file of weights is executed."""


class DataError(ConfigError):
    """Images or labels are missing, truncated, or not in the documented layout."""


class RunFailed(RaykdError):
    """A run ended without a result: NaN, a lost worker, an error in the code."""


class RunDiverged(RunFailed):
    """Training or validation became NaN or infinite, as it would again with the same configuration and seed."""

    failure = "diverged"


class OutOfMemory(RunFailed):
    """A step, a teacher or an evaluation of a run does not fit in the memory of its device."""

    failure = "out of memory"


class CodeFailed(RunFailed):
    """An error in a run's code, which another process found."""

    failure = "code"


class RunLocked(RunFailed):
    """Another process is writing the run's folder. The run itself has not failed."""


class Interrupted(RaykdError):
    """A signal, a time limit or a lost node interrupted the command; rerun the same command to resume."""

    exit_code = 75


class RayNotStarted(RaykdError):
    """Ray did not start, or not in time. Nothing is lost: rerun the same command to resume."""

    exit_code = 75


# ---- Wording of messages ----


def plural(count: float, noun: str, nouns: str = "") -> str:
    """Return '1 run', '1,200 runs' or '0.5 GPUs'. nouns: an irregular plural, as in plural(2, 'pass', 'passes')."""
    number = f"{count:,}" if isinstance(count, int) else f"{count:.4g}"
    return f"{number} {noun if count == 1 else nouns or noun + 's'}"


def one_line(text: str) -> str:
    """Return `text` with each unprintable character, such as a line break, as its escape sequence."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def flattened(text: str, most: int = MAX_REASON) -> str:
    """Return `text` for the report, with single spaces for white space and unprintable characters.

    A text of more than `most` characters ends in "...". `one_line` returns escape sequences instead, which show the
    characters of a value in a message.
    """
    flat = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return flat if len(flat) <= most else f"{flat[: most - 3]}..."


def shortened(text: str, most: int = MAX_SHOWN) -> str:
    """Return the first `most` characters of `text`, with a note of its length if it is longer."""
    return text if len(text) <= most else f"{text[:most]}... ({len(text)} characters)"


def shown(value: Any) -> str:
    """Return `repr(value)` in one short line. Some values, such as integers of 5,000 digits, have no repr."""
    try:
        return one_line(shortened(repr(value)))
    except Exception:  # noqa: BLE001 - a custom class may raise anything
        return f"a value of type {type(value).__name__} that cannot be printed"


def reason_of(error: BaseException) -> str:
    """Return the error's type and the first line of its message: 'ValueError: too few values'."""
    try:
        lines = str(error).strip().splitlines()
    except Exception:  # noqa: BLE001 - a custom error may raise anything
        lines = []
    return f"{type(error).__name__}: {one_line(shortened(lines[0], MAX_REASON)) if lines else 'no reason given'}"


def did_you_mean(name: str, known: Iterable[str], numbered: bool = False) -> str:
    """Return "; did you mean 'X'?" if `name` may be a known name with a typing mistake, else ''.

    A typing mistake changes at most one character in four. numbered: the known names differ in their numbers
    ('resnet8', 'resnet18'), so a name with other digits is not a typing mistake.
    """
    digits = re.findall(r"\d", name)
    candidates = [candidate for candidate in known if not numbered or re.findall(r"\d", candidate) == digits]
    for near in get_close_matches(name, candidates, n=1, cutoff=0.6):
        num_same = sum(block.size for block in SequenceMatcher(None, name, near).get_matching_blocks())
        length = max(len(name), len(near))
        if length - num_same <= max(1, length // 4):
            return f"; did you mean '{near}'?"
    return ""


# ---- Errors of the environment ----

# Errors that the machine, a disk, a quota, a limit or a network causes in a correct program. All other OSErrors, such
# as a file that does not exist, are mistakes in the code, and keep their traceback.
_ENVIRONMENT_NAMES = """
    ENOSPC EDQUOT EFBIG EIO EROFS EACCES EPERM ESTALE ENOMEM EMFILE ENFILE ENOLCK EBUSY ENODEV ENXIO EREMOTEIO
    ENAMETOOLONG ELOOP ENOTCONN ESHUTDOWN ETIMEDOUT ECONNREFUSED ECONNRESET EHOSTDOWN EHOSTUNREACH ENETDOWN
    ENETUNREACH EADDRINUSE EADDRNOTAVAIL ENOTSUP ENOSYS EAGAIN
"""
_ENVIRONMENT = frozenset(getattr(errno, name) for name in _ENVIRONMENT_NAMES.split())


def is_environment_error(error: BaseException) -> bool:
    """Return whether `error` comes from a disk, a quota, permissions or a network, and not from a mistake in code."""
    if not isinstance(error, OSError):
        return False
    cause = getattr(error, "reason", None)  # urllib's errors hold the socket's
    if error.errno is None and isinstance(cause, OSError):
        return is_environment_error(cause)
    return isinstance(error, ConnectionError | TimeoutError) or (error.errno or 0) in _ENVIRONMENT


def is_removed_below(folder: str | Path | None, error: OSError) -> bool:
    """Return whether `error` is that a file or folder below `folder` is missing, since another command removed it."""
    if folder is None or not isinstance(error, FileNotFoundError) or not isinstance(error.filename, str | Path):
        return False
    path = Path(error.filename).absolute()
    return path.is_relative_to(Path(folder).absolute()) and not os.path.lexists(path)


def removed_meanwhile(path: str | Path) -> str:
    """Return the message for a file in the results folder that another command removed while this one read it."""
    return f"'{one_line(str(path))}' was removed by another command in the meantime; rerun the same command"


# ---- Errors in code and files of the user ----

_files_being_read: list[str] = []  # the innermost last


@contextmanager
def errors_of(subject: str, path: str = "", remedy: str = "") -> Iterator[None]:
    """Turn whatever the block raises into a ConfigError, with the line of the file `path` that raised it, if any.

    subject: how the message begins; remedy: how it ends. raykd's errors and KeyboardInterrupt (Ctrl-C) pass unchanged.
    """
    try:
        yield
    except (RaykdError, KeyboardInterrupt):
        raise
    except SystemExit as error:
        at = _at_line(path, error)
        raise ConfigError(
            f"{subject} ends the process{at} (sys.exit, code {shown(error.code)}); remove that line"
        ) from error
    except BaseException as error:  # a user's code may raise anything, such as asyncio.CancelledError
        end = f"; {remedy}" if remedy else ""
        raise ConfigError(f"{subject} fails{_at_line(path, error)} with {reason_of(error)}{end}") from error


@contextmanager
def reading(subject: str, path: str) -> Iterator[None]:
    """Apply `errors_of` to a block that runs the file `path`, and add file and line to a ConfigError raised there."""
    _files_being_read.append(path)
    try:
        with errors_of(subject, path):
            yield
    except ConfigError as error:
        if subject in str(error) or path in str(error):
            raise
        line = _line_in(path, error)
        raise type(error)(f"{subject}{f', line {line}' if line else ''}: {error}") from error
    finally:
        _files_being_read.pop()


def is_being_read() -> bool:
    """Return whether a user's file is being read now, so that main() in it must not start anything."""
    return bool(_files_being_read)


def require_file(noun: str, file: str | Path, remedy: str) -> Path:
    """Return the path of a regular file. Raises ConfigError if it is missing, a folder, unreadable, or a pipe.

    A pipe would block. noun: such as 'experiment file'. remedy: the end of the message.
    """
    path, subject = Path(file), f"{noun} '{one_line(shortened(str(file)))}'"
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(f"{subject} does not exist; {remedy}") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{subject} cannot be read ({reason}); {remedy}") from None
    if stat.S_ISDIR(mode):
        raise ConfigError(f"{subject} is a folder; {remedy}")
    if not stat.S_ISREG(mode):
        raise ConfigError(f"{subject} is a pipe, socket or device and not a regular file; {remedy}")
    try:
        with path.open("rb"):
            return path
    except PermissionError as error:
        may_read = "set its permissions with chmod, or ask its owner to"
        raise ConfigError(f"{subject} cannot be read ({error.strerror}); {may_read}") from None


def _at_line(path: str, error: BaseException) -> str:
    line = _line_in(path, error)
    return f" at line {line}" if line else ""


def _line_in(path: str, error: BaseException) -> int:
    """Return the line of the file `path` that raised `error` or has a syntax error; 0 if none did."""
    if isinstance(error, SyntaxError) and error.filename == path:
        return error.lineno or 0
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    return (lines[-1] or 0) if lines else 0
