"""Errors that raykd raises, their exit codes, and the 'did you mean' of their messages.

Exit codes: 0 done, 1 a run failed, 2 the user's mistake, 75 cut off (the same command goes on).
"""

from collections.abc import Iterable
from difflib import get_close_matches


class RaykdError(Exception):
    """Anything that ends a command with one line instead of a traceback."""

    exit_code = 1


class ConfigError(RaykdError, ValueError):
    """A field, flag or file of the user's that cannot work: names field, value and remedy."""

    exit_code = 2


class DataError(ConfigError):
    """Images or labels that are missing, cut short, or not what their layout promises."""


class RunFailed(RaykdError):
    """A run that ended without its result: NaN, a lost worker, an error in the code."""


class Interrupted(RaykdError):
    """Cut off by a signal or a time limit; the same command goes on from there."""

    exit_code = 75


class RayNotStarted(RaykdError):
    """Ray did not start, or not in time. Nothing is lost: rerun the same command to resume."""

    exit_code = 75


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """'; did you mean 'X'?' for the nearest known name, or '' when none is near."""
    nearest = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{nearest[0]}'?" if nearest else ""
