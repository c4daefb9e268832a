"""Errors of packing whose remedy is an option of the `pack` command.

An experiment that packs its data set itself has no such options. It shows the whole command instead, see
`PackError.with_commands`.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from raykd.errors import COMMAND, DataError


class Alternative(NamedTuple):
    """effect: what an option of `pack` does, such as 'reduce the images'. options: such as '--resize 64'."""

    effect: str
    options: str


SKIP_DAMAGED = Alternative("or leave out up to N damaged images", "--skip-damaged N")  # follows other remedies
TO_ANOTHER_FOLDER = Alternative("pack into another folder", "--to FOLDER")


class PackError(DataError):
    """A data set cannot be packed as requested.

    remedy: what the user can do with the same command; '' for nothing. alternatives: options with which it works.
    """

    def __init__(self, problem: str, remedy: str, *alternatives: Alternative) -> None:
        parts = [f"{effect} with {options}" for effect, options in alternatives]
        super().__init__(_message(problem, remedy, parts))
        self.problem, self.remedy, self.alternatives = problem, remedy, alternatives

    def __reduce__(self) -> tuple:
        """Return how to build the error again in the process that receives it."""
        return type(self), (self.problem, self.remedy, *self.alternatives)

    def with_commands(self, name: str, data_folder: Path) -> DataError:
        """Return the error for an experiment on the data set `name`, which has no options of packing."""
        parts = [
            f"{effect} ({pack_command(name, data_folder, options)}) and set data.name to the name that it prints"
            for effect, options in self.alternatives
        ]
        return DataError(_message(self.problem, self.remedy, parts))


class HoldsOtherPack(PackError):
    """The folder holds a complete pack of other files, other versions of them, or other options."""


def _message(problem: str, remedy: str, alternatives: Sequence[str]) -> str:
    return f"{problem}; {', or '.join([remedy, *alternatives] if remedy else alternatives)}"


def pack_command(name: str, data_folder: Path, options: str = "") -> str:
    """Return the command that packs the data set `name`, quoted for a shell, with `options` as they are."""
    words = shlex.join(["pack", name, "--data-dir", str(data_folder)])
    return f"{COMMAND} {words} {options}".rstrip()
