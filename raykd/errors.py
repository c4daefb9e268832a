"""Errors that raykd raises, their exit codes, and the 'did you mean' of their messages.

Exit codes: 0 done, 1 a run failed, 2 the user's mistake, 75 cut off (the same command goes on).
"""

import errno
from collections.abc import Iterable
from difflib import SequenceMatcher, get_close_matches

from raykd.messages import one_line

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
    """Cut off by a signal or a time limit; the same command goes on from there."""

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
