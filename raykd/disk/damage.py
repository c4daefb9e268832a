"""The error for a damaged file below a results folder, with the remedy for each kind of file."""

from pathlib import Path

from raykd.disk.lookup import is_file, is_folder, is_there
from raykd.errors import COMMAND, ConfigError, flattened

_RETRAIN = "move the folder '{folder}' away and rerun the same command to train the run again"
_SEARCH_AGAIN = "move the folder '{folder}' away and rerun the same command to search again"
_EVALUATE_AGAIN = f"remove it; '{COMMAND} report' then evaluates the run again"
_EVALUATE_ALL_AGAIN = f"remove it and the test.json beside it; '{COMMAND} report' then evaluates the run again"

# The remedy for each file name; the files of usage/ and code/ are under these names.
REMEDIES = {
    "plan.json": "remove it and rerun the experiment, which writes it again",
    "run.json": _RETRAIN,
    "best.safetensors": (
        "rerun the experiment, which restores it from the run's checkpoint, if keep_checkpoints=true kept that, or "
        "imports it again"
    ),
    "history.parquet": "remove it; the report then shows the run without a learning curve",
    "test.json": _EVALUATE_AGAIN,
    "val.json": _EVALUATE_ALL_AGAIN,
    "costs.json": _EVALUATE_ALL_AGAIN,
    "usage": "remove it; the report then leaves the run's time and energy blank",
    "code": "copy the file there from another run with the same network, or train the run again",
    "search.json": _SEARCH_AGAIN,
    "study.journal": _SEARCH_AGAIN,
    "confirmed.json": "remove it and rerun the same command to confirm the best configurations again",
    "tags.json": "remove it; the run then has no tags",
    "sampled.json": "remove it; the logit cache beside it stays valid",
    "pack.json": "remove the folder '{folder}' and pack the data set again: rerun the command that packed it",
    "packing.json": "remove the folder '{folder}' and rerun the same command to pack the data set again",
    "cache.json": "remove the folder '{folder}' and rerun the experiment to fill the logit cache again",
}


class DamagedFile(ConfigError):
    """A file below a results folder is truncated, changed, or belongs to another run."""


def damaged(path: Path, reason: str) -> DamagedFile:
    """Return the error for the file `path`, in one line: the file, the reason and the remedy."""
    name = next((folder for folder in ("usage", "code") if folder in path.parts[-3:-1]), path.name)
    remedy = REMEDIES.get(name, "move it away and rerun the same command").format(folder=path.parent)
    return DamagedFile(f"'{path}' is damaged: {flattened(reason)}; {remedy}")


def require_regular(path: Path) -> None:
    """Raise DamagedFile for a folder, and for a pipe, at which a reader would wait for ever. A missing file passes."""
    if is_there(path) and not is_file(path):
        raise damaged(path, "it is a folder" if is_folder(path) else "it is not a regular file")
