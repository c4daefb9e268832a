"""An ArgumentParser whose errors are one line each.

raykd: unknown option '--reslts'; did you mean '--results'? see 'raykd plan --help'
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from raykd.errors import ConfigError, did_you_mean, one_line, shortened

EXIT_CODES = (
    "exit codes: 0 done; 1 a run failed; 2 invalid arguments, configuration or files; 75 interrupted, "
    "rerun the same command to resume"
)


class Parser(argparse.ArgumentParser):
    """Options are written in full, because a prefix such as --teacher could stand for --teacher-source."""

    def __init__(self, **named: Any) -> None:
        super().__init__(**{"epilog": EXIT_CODES, "allow_abbrev": False} | named)

    def error(self, message: str) -> NoReturn:
        """Print `message` in one line, and end the process with the exit code of an invalid configuration."""
        separator = "" if message.endswith("?") else ";"
        print(f"raykd: {one_line(message)}{separator} see '{self.prog} --help'", file=sys.stderr)
        raise SystemExit(ConfigError.exit_code)

    def parse_known_args(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, args: Any = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """Parse, and end the process for arguments that are left over.

        argparse would leave those of a subcommand to the main parser, which lacks the subcommand's options.
        """
        parsed, left = super().parse_known_args(args, namespace)
        if left:
            self.error(self._unknown(left))
        return parsed, []

    def _unknown(self, left: Sequence[str]) -> str:
        options = [word.partition("=")[0] for word in left if word.startswith("-")]
        if not options:
            return f"unexpected argument {_quoted(left[0])}"
        if any(action.nargs == argparse.REMAINDER for action in self._actions):
            return f"unexpected option {_quoted(options[0])}: the experiment's options follow its name"
        return f"unknown option {_quoted(options[0])}{did_you_mean(options[0], self._option_string_actions)}"

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Raise ArgumentError, with the nearest choice, unless `value` is one of the action's choices."""
        choices = action.choices
        if choices is None or value in choices:
            return
        if isinstance(action, argparse._SubParsersAction):
            near = did_you_mean(str(value), choices)
            raise argparse.ArgumentError(None, f"unknown command {_quoted(value)}{near}")
        known = ", ".join(map(str, choices))
        near = did_you_mean(str(value), map(str, choices))
        raise argparse.ArgumentError(action, f"{_quoted(value)} is not one of {known}{near}")


def _quoted(word: object) -> str:
    return f"'{shortened(str(word))}'"
