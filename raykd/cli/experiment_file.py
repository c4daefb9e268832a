"""Load experiments from a file, and apply settings and flags of the command line to them."""

import runpy
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from importlib.util import decode_source
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from raykd.config.local_modules import add_experiment_folder
from raykd.errors import COMMAND, ConfigError, did_you_mean, reading, require_file, shortened
from raykd.spec.bundled import find_experiment
from raykd.spec.experiment import Experiment
from raykd.spec.overrides import override_all

MAX_EXPERIMENTS = 1000


def load_experiments(file: str | Path) -> tuple[Experiment, ...]:
    """Return the file's `experiments`, else its `experiment`. Raises ConfigError if it has neither, or fails.

    file: a path, or the name of an experiment, see `find_experiment`.
    """
    file = find_experiment(file)
    subject = f"experiment file '{file}'"
    path = require_file("experiment file", file, f"'{COMMAND} experiments' lists the bundled ones")
    if b"\0" in path.read_bytes():  # Python 3.11 would run the lines before them
        raise ConfigError(f"{subject} has null bytes, so it is not Python source; copy it again")
    add_experiment_folder(path.parent.absolute())
    sys.path.insert(0, str(path.parent.absolute()))  # like `python FILE`: one experiment may import another
    try:
        with reading(subject, str(path)):
            decode_source(path.read_bytes())  # because Python ignores invalid bytes in comments
            names = runpy.run_path(str(path))
            return tuple(_experiments_among(names, subject))
    finally:
        with suppress(ValueError):  # the file itself may have removed it
            sys.path.remove(str(path.parent.absolute()))


def _experiments_among(names: Mapping[str, Any], subject: str) -> Iterator[Experiment]:
    """Yield the experiments among the `names` that a file defines. subject: the file, for messages."""
    name = "experiments" if "experiments" in names else "experiment"
    defined: Any = names.get(name)
    is_sequence = name == "experiments" and isinstance(defined, Iterable) and not isinstance(defined, str | Mapping)
    items: list[Any] = list(islice(defined, MAX_EXPERIMENTS + 1)) if is_sequence else [defined]
    if not items or defined is None:
        raise ConfigError(f"{subject} defines no experiment; it requires a line experiment = Experiment(...)")
    if len(items) > MAX_EXPERIMENTS:
        raise ConfigError(f"{subject}: experiments has more than {MAX_EXPERIMENTS:,} items; split the file")
    for item in items:
        if not isinstance(item, Experiment):
            kind = f"the class {item.__name__}" if isinstance(item, type) else f"of type {type(item).__name__}"
            value = f"has an item that is {kind}" if is_sequence else f"is {kind}"
            expected = "an Experiment" if name == "experiment" else "a tuple of Experiment objects"
            raise ConfigError(f"{subject} defines no experiment: {name} {value}; it must be {expected}")
        yield item


def load_experiment(file: str | Path) -> Experiment:
    """Return the file's only experiment. Raises ConfigError if there are several."""
    experiment, *others = load_experiments(file)
    if others:
        raise ConfigError(f"experiment file '{file}' defines {1 + len(others)} experiments; name a file with one")
    return experiment


class Flag(NamedTuple):
    """A flag of the command line that sets the field `path`. text: the flag as typed; value: text or a Config."""

    text: str
    path: str
    value: Any


def apply_settings(
    experiments: Sequence[Experiment],
    settings: Sequence[str],
    flags: Sequence[Flag] = (),
    left_out: Collection[str] = (),
) -> tuple[Experiment, ...]:
    """Return `experiments` with `settings`, each 'path=value', and `flags` applied. Their order does not matter.

    Raises ConfigError for invalid values, and what `settings_by_family` raises. See spec/overrides.py.
    """
    by_family = settings_by_family(experiments, settings, flags, left_out)
    changed = []
    for experiment in experiments:
        try:
            changed.append(override_all(experiment, by_family[experiment.family]))
        except ConfigError as error:
            if len(experiments) == 1:
                raise
            raise ConfigError(
                f"{error} (in the experiment '{experiment.family}'; "
                f"--set {experiment.family}.FIELD=VALUE sets a field of one family)"
            ) from None
    return tuple(changed)


def settings_by_family(
    experiments: Sequence[Experiment],
    settings: Sequence[str],
    flags: Sequence[Flag] = (),
    left_out: Collection[str] = (),
) -> dict[str, list[tuple[str, Any]]]:
    """Return (path, value) of each setting and flag by the family of the experiment to which it applies.

    A path may begin with a family's name. It then applies to that family only, and takes precedence over the same path
    without the name. left_out: families of the file that do not run. Raises ConfigError for a setting that has no
    effect, or that sets the field of a flag.
    """
    families = [experiment.family for experiment in experiments]
    split = [_split(setting, families, left_out) for setting in settings]
    for setting, (_, path, _) in zip(settings, split, strict=True):
        for flag in flags:
            if flag.path == path:
                raise ConfigError(f"{flag.text} and --set {setting} set the same field; leave one of them out")
    for_all: list[tuple[str, Any]] = [(flag.path, flag.value) for flag in flags]
    for_all += [(path, value) for family, path, value in split if not family]
    return {
        family: for_all + [(path, value) for of_family, path, value in split if of_family == family]
        for family in families
    }


def _split(setting: str, families: Collection[str], left_out: Collection[str]) -> tuple[str, str, str]:
    """Split 'family.path=value' or 'path=value' into (family or '', path, value)."""
    path, equals, value = (part.strip() for part in setting.partition("="))
    if not equals or not path:
        raise ConfigError(f"--set {shortened(setting)}: must be FIELD=VALUE, such as --set method.temperature=2")
    head, _, rest = path.partition(".")
    names = [item.name for item in fields(Experiment)]
    if head in names:
        return "", path, value
    if head in left_out:
        raise ConfigError(f"--set {shortened(setting)}: --family leaves out {head}; leave the setting out too")
    if head not in families:
        raise ConfigError(
            f"unknown config field '{path}': Experiment has {', '.join(names)}, and families here are "
            f"{', '.join(families)}{did_you_mean(head, [*names, *families])}"
        )
    if not rest:
        raise ConfigError(f"--set {shortened(setting)}: must name a field, such as {head}.method.temperature=2")
    return head, rest, value
