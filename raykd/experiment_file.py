"""Experiments out of a file, and settings onto them."""

import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from raykd.config import override
from raykd.errors import ConfigError, RaykdError
from raykd.experiment import Experiment

EXPERIMENTS = Path(__file__).parent.parent / "experiments"


def load_experiments(file: str | Path) -> tuple[Experiment, ...]:
    """The file's `experiment`, or its `experiments`. Raises ConfigError for a file without one, or with an error."""
    path = Path(file)
    if not path.is_file():
        raise ConfigError(f"experiment file '{file}' does not exist; examples are in {EXPERIMENTS}")
    sys.path.insert(0, str(path.parent.absolute()))  # what `python FILE` would do: one experiment may import another
    try:
        names = runpy.run_path(str(path))
    except RaykdError:
        raise
    except Exception as error:  # whatever a person's file may raise
        raise ConfigError(f"experiment file '{file}' fails with {type(error).__name__}: {error}") from error
    finally:
        sys.path.pop(0)
    found: list[object] = list(names.get("experiments", ())) or [names.get("experiment")]
    experiments = tuple(item for item in found if isinstance(item, Experiment))
    if len(experiments) < len(found):
        raise ConfigError(
            f"experiment file '{file}' defines no experiment; it needs a line experiment = Experiment(...)"
        )
    return experiments


def load_experiment(file: str | Path) -> Experiment:
    """The file's one experiment."""
    experiment, *others = load_experiments(file)
    if others:
        raise ConfigError(f"experiment file '{file}' defines {1 + len(others)} experiments; this command takes one")
    return experiment


def apply_settings(experiments: Sequence[Experiment], settings: Sequence[str]) -> tuple[Experiment, ...]:
    """`settings` are 'path=value'; a path may begin with one family's name, and concerns all others otherwise.

    Settings that hold only together (fewer epochs, earlier milestones) are tried in the other orders too.
    """
    return tuple(_apply(experiment, settings, {e.family for e in experiments}) for experiment in experiments)


def _apply(experiment: Experiment, settings: Sequence[str], families: set[str]) -> Experiment:
    left = [_split(setting) for setting in settings]
    while left:
        kept, error = [], None
        for path, value in left:
            family, _, rest = path.partition(".")
            if family in families and family != experiment.family:
                continue
            try:
                experiment = override(experiment, rest if family == experiment.family else path, value)
            except ConfigError as failure:
                kept.append((path, value))
                error = error or failure
        if error is not None and len(kept) == len(left):
            raise error
        left = kept
    return experiment


def _split(setting: str) -> tuple[str, str]:
    path, equals, value = setting.partition("=")
    if not equals or not path:
        raise ConfigError(f"--set {setting}: wants FIELD=VALUE, such as --set method.temperature=2")
    return path.strip(), value.strip()
