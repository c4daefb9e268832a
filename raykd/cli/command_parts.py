"""The parts of a command that runs experiments, which plan.json keeps beside the command as typed."""

import shlex
import sys
from argparse import Namespace
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from raykd.config import Config
from raykd.errors import COMMAND
from raykd.spec.experiment import Experiment
from raykd.store.records import CommandParts
from raykd.store.results_folder import DEFAULT_RESULTS


def run_program(experiment: str) -> tuple[str, ...]:
    """Return the words that run an experiment by its name or file, such as ('raykd', 'run', 'distill_cnn')."""
    return (*shlex.split(COMMAND), "run", experiment)


def script_program() -> tuple[str, ...]:
    """Return the words that started this process without the script's arguments, such as ('python', 'digits.py').

    () if they are not known, as where other code has changed `sys.argv`.
    """
    end = len(sys.orig_argv) - len(sys.argv[1:])
    return ("python", *sys.orig_argv[1:end]) if sys.orig_argv[end:] == sys.argv[1:] else ()


def command_parts(
    experiment: Experiment, program: tuple[str, ...], arguments: Namespace, settings: Iterable[tuple[str, Any]]
) -> CommandParts | None:
    """Return the parts of a command for one of its experiments.

    settings: the fields that its flags and --set change, with text or a Config. Returns None if the program is not
    known, or if a word has characters that are not printable.
    """
    texts: dict[str, str] = {}
    for path, value in settings:
        texts |= _as_text(path, value)
    options = () if arguments.results == DEFAULT_RESULTS else ("--results", arguments.results)
    options += ("--data-dir", arguments.data_dir) if arguments.data_dir else ()
    if "pair" in arguments:
        options += ("--pair", experiment.published)
        options += ("--teachers", arguments.teachers) if arguments.teachers else ()
    elif "family" in arguments:
        # A setting may rename the family. Then only one is selected, since families have different names.
        options += ("--family", arguments.family[0] if "family" in texts else experiment.family)
    parts = CommandParts(program, options, texts)
    return parts if program and not parts.problem() else None


def _as_text(path: str, value: Any) -> Mapping[str, str]:
    """Return the settings of a value: of a Config its kind, and its fields that are not default."""
    if not isinstance(value, Config):
        return {path: str(value)}
    values = [(item.name, getattr(value, item.name), item.default) for item in fields(value)]
    return {path: value.kind} | {f"{path}.{name}": str(item) for name, item, default in values if item != default}
