"""Experiments from a file, and settings applied to them."""

import runpy
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from importlib.util import decode_source
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from raykd.errors import ConfigError, did_you_mean, reading, require_file, shortened
from raykd.spec.experiment import Experiment
from raykd.spec.overrides import override_all

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
MAX_EXPERIMENTS = 1000


def load_experiments(file: str | Path) -> tuple[Experiment, ...]:
    """The file's `experiments`, else its `experiment`. Raises ConfigError for a file without one, or with an error."""
    what = f"experiment file '{file}'"
    path = require_file("experiment file", file, f"examples are in {EXPERIMENTS}")
    if b"\0" in path.read_bytes():  # Python 3.11 would run what is before it
        raise ConfigError(f"{what} has null bytes and is no Python source; copy it again")
    sys.path.insert(0, str(path.parent.absolute()))  # as `python FILE` does: one experiment may import another
    try:
        with reading(what, str(path)):
            decode_source(path.read_bytes())  # Python itself passes over wrong bytes in comments
            names = runpy.run_path(str(path))
            return tuple(_found(what, names))
    finally:
        with suppress(ValueError):  # the file may have changed sys.path itself
            sys.path.remove(str(path.parent.absolute()))


def _found(what: str, names: Mapping[str, Any]) -> Iterator[Experiment]:
    """The experiments among the `names` that a file defines."""
    name = "experiments" if "experiments" in names else "experiment"
    defined: Any = names.get(name)
    several = name == "experiments" and isinstance(defined, Iterable) and not isinstance(defined, str | Mapping)
    listed: list[Any] = list(islice(defined, MAX_EXPERIMENTS + 1)) if several else [defined]
    if not listed or defined is None:
        raise ConfigError(f"{what} defines no experiment; it requires a line experiment = Experiment(...)")
    if len(listed) > MAX_EXPERIMENTS:
        raise ConfigError(f"{what}: experiments has more than {MAX_EXPERIMENTS:,} items; split the file")
    for item in listed:
        if not isinstance(item, Experiment):
            kind = f"the class {item.__name__}" if isinstance(item, type) else f"of type {type(item).__name__}"
            each = "an Experiment" if name == "experiment" else "a tuple of Experiment objects"
            found = f"has an item that is {kind}" if several else f"is {kind}"
            raise ConfigError(f"{what} defines no experiment: {name} {found}; it must be {each}")
        yield item


def load_experiment(file: str | Path) -> Experiment:
    """The file's one experiment."""
    experiment, *others = load_experiments(file)
    if others:
        raise ConfigError(f"experiment file '{file}' defines {1 + len(others)} experiments; this command takes one")
    return experiment


class Flag(NamedTuple):
    """A field that a flag of the command line sets. words: the flag as it was typed; value: text or a Config."""

    words: str
    path: str
    value: Any


def apply_settings(
    experiments: Sequence[Experiment],
    settings: Sequence[str],
    flags: Sequence[Flag] = (),
    left_out: Collection[str] = (),
) -> tuple[Experiment, ...]:
    """`experiments` with `settings`, each 'path=value', and `flags`, in any order: see overrides.py.

    A path may begin with a family's name: it then concerns that family alone, and counts more than the same path
    without it. left_out: families of the file that do not run. Raises ConfigError for a setting that has no effect, or
    that sets the field of a flag.
    """
    families = [experiment.family for experiment in experiments]
    split = [_split(setting, families, left_out) for setting in settings]
    for setting, (_, path, _) in zip(settings, split, strict=True):
        for flag in flags:
            if flag.path == path:
                raise ConfigError(f"{flag.words} and --set {setting} set the same field; leave one of them out")
    asked = [(flag.path, flag.value) for flag in flags]
    return tuple(_apply(experiment, asked, split, len(families)) for experiment in experiments)


def _apply(
    experiment: Experiment, flags: list[tuple[str, Any]], split: Sequence[tuple[str, str, str]], num_families: int
) -> Experiment:
    of_all = [(path, value) for family, path, value in split if not family]
    of_its_family = [(path, value) for family, path, value in split if family == experiment.family]
    try:
        return override_all(experiment, flags + of_all + of_its_family)
    except ConfigError as error:
        if num_families == 1:
            raise
        raise ConfigError(
            f"{error} (in the experiment '{experiment.family}'; "
            f"--set {experiment.family}.FIELD=VALUE sets a field of one family)"
        ) from None


def _split(setting: str, families: Collection[str], left_out: Collection[str]) -> tuple[str, str, str]:
    """(family or '', path, value) of 'family.path=value' or 'path=value'."""
    path, equals, value = (part.strip() for part in setting.partition("="))
    if not equals or not path:
        raise ConfigError(f"--set {shortened(setting)}: wants FIELD=VALUE, such as --set method.temperature=2")
    head, _, rest = path.partition(".")
    known = [item.name for item in fields(Experiment)]
    if head in known:
        return "", path, value
    if head in left_out:
        raise ConfigError(f"--set {shortened(setting)}: --family leaves out {head}; leave the setting out too")
    if head not in families:
        raise ConfigError(
            f"unknown config field '{path}': Experiment has {', '.join(known)}, and families here are "
            f"{', '.join(families)}{did_you_mean(head, [*known, *families])}"
        )
    if not rest:
        raise ConfigError(f"--set {shortened(setting)}: wants a field of {head}, such as {head}.method.temperature=2")
    return head, rest, value
