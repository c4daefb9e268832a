"""The run that a user names in a command: by a unique beginning of its name, its fingerprint, or its folder.

    cnn/distilled-resnet8-kd-s0-3eaa893bc1bf    distilled-resnet8-kd-s0    3eaa89    ray_results/cnn/distilled-...

Imports no torch.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from raykd.disk.lookup import find, is_file
from raykd.errors import ConfigError, did_you_mean, one_line, plural, shortened
from raykd.spec.stages import TRIALS
from raykd.store.run_folder import RunFolder

MAX_CANDIDATES = 5  # named in a message
MIN_DIGITS, MIN_SHOWN = 4, 6  # digits of a fingerprint: that name a run, and in a list of runs
_RECORD = "run.json"


def find_run(results: Path, name: str) -> RunFolder:
    """Return the run that `name` names: a folder, or below `results` the unique run whose name begins with it.

    '<family>/<run>', '<run>', '<family>/<search>/<trial>' and the fingerprint's digits at the end of a name count. A
    whole name comes before longer ones. Raises ConfigError with the candidates for several runs, and with the most
    similar name for none.
    """
    if name and is_file(Path(name) / _RECORD):
        return RunFolder(Path(name).resolve())  # so that '.' has a name, and its family beside it
    names = _names_of_runs(results)
    shown = one_line(shortened(name))
    if not names:
        hint = "(looked for <family>/<run>/run.json); train one first, or name another folder with --results"
        raise ConfigError(f"no run '{shown}' under '{results}' {hint}")
    exact = [folder for folder, known in names.items() if name in known]
    begun = [folder for folder, known in names.items() if name and any(one.startswith(name) for one in known)]
    numbered = [path for path in short_names(results) if _is_fingerprint(name) and _digits(path.name).startswith(name)]
    matches = exact or begun or numbered
    if len(matches) == 1:
        return RunFolder(matches[0])
    if matches:
        raise ConfigError(f"run '{shown}' names {plural(len(matches), 'run')}; name one of {_listed(matches, names)}")
    every = [one for known in names.values() for one in known]
    nearest = did_you_mean(name, every) or f", such as {next(iter(names)).name}"
    raise ConfigError(f"no run '{shown}' under '{results}': it has {plural(len(names), 'run')}{nearest}")


def short_names(results: Path) -> dict[Path, str]:
    """Return the shortest unique beginning of each run's fingerprint, at least MIN_SHOWN digits, by the run's folder.

    A run in several families has its whole fingerprint. Trials have numbers instead, and are left out.
    """
    digits = sorted((_digits(path.name), path) for path, known in _names_of_runs(results).items() if len(known) == 2)
    short = {}
    for number, (text, path) in enumerate(digits):
        others = [digits[at][0] for at in (number - 1, number + 1) if 0 <= at < len(digits)]
        lengths = range(MIN_SHOWN, len(text))
        short[path] = next((text[:n] for n in lengths if not any(one.startswith(text[:n]) for one in others)), text)
    return short


def _names_of_runs(results: Path) -> Mapping[Path, tuple[str, ...]]:
    """Return the names of each run and trial below `results`, by its folder."""
    names: dict[Path, tuple[str, ...]] = {}
    for path in sorted(record.parent for record in find(results, f"*/*/{_RECORD}")):
        names[path] = (path.name, f"{path.parent.name}/{path.name}")
    for path in sorted(record.parent for record in find(results, f"*/*/{TRIALS}/*/{_RECORD}")):
        names[path] = (RunFolder(path).name,)
    return {path: known for path, known in names.items() if not _is_hidden(path.relative_to(results))}


def _is_hidden(path: Path) -> bool:
    """Return whether a run is being removed, or was set aside by `raykd migrate`."""
    return any(part.startswith(".") for part in path.parts)


def _digits(name: str) -> str:
    return name.rpartition("-")[2]


def _is_fingerprint(name: str) -> bool:
    return re.fullmatch(rf"[0-9a-f]{{{MIN_DIGITS},}}", name) is not None


def _listed(folders: list[Path], names: Mapping[Path, tuple[str, ...]]) -> str:
    """Return the first of the runs, each by its longest name."""
    listed = ", ".join(names[folder][-1] for folder in folders[:MAX_CANDIDATES])
    more = f" and {len(folders) - MAX_CANDIDATES} more" if len(folders) > MAX_CANDIDATES else ""
    return f"{listed}{more}"
