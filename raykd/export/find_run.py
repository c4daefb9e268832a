"""A run by what a person calls it: its folder, its name, or family/name below the results."""

from collections.abc import Sequence
from pathlib import Path

from raykd.errors import ConfigError, did_you_mean
from raykd.store.run_folder import RunFolder

_RECORD = "run.json"


def find_run(results: Path, word: str) -> RunFolder:
    """The folder of the run called `word`. Raises ConfigError, with the nearest name, when there is none or several."""
    if word and (Path(word) / _RECORD).is_file():
        return RunFolder(Path(word).resolve())  # '.' has a name, and a family beside it
    folders = sorted(path.parent for path in results.glob(f"*/*/{_RECORD}"))
    found = [folder for folder in folders if word in _names(folder)]
    if len(found) > 1:
        families = ", ".join(f"{folder.parent.name}/{folder.name}" for folder in found)
        raise ConfigError(f"run '{word}' is in several families; name one of {families}")
    if not found:
        raise ConfigError(f"no run '{word}' under '{results}'{_known(word, folders)}")
    return RunFolder(found[0])


def _names(folder: Path) -> tuple[str, str]:
    return folder.name, f"{folder.parent.name}/{folder.name}"


def _known(word: str, folders: Sequence[Path]) -> str:
    if not folders:
        return " (looked for <family>/<run>/run.json); train one first, or name another folder with --results"
    nearest = did_you_mean(word, [name for folder in folders for name in _names(folder)])
    return f": it has {len(folders)} runs{nearest or f', such as {folders[0].name}'}"
