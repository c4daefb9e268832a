"""Damaged files below a results folder: one error class, one form of message, and the remedy that fits each file."""

from pathlib import Path

from raykd.errors import ConfigError, flattened

_RETRAIN = "move the folder '{folder}' away and rerun the same command to train the run again"
_SEARCH_AGAIN = "move the folder '{folder}' away and rerun the same command to search again"
_EVALUATE_AGAIN = "remove it, and 'raykd report' evaluates the run again"
_EVALUATE_ALL_AGAIN = "remove it and the test.json beside it, and 'raykd report' evaluates the run again"

# By the file's name; usage/<rank>.json has the name of its folder.
REMEDIES = {
    "plan.json": "remove it and rerun the experiment, which writes it again",
    "run.json": _RETRAIN,
    "best.safetensors": "rerun the experiment, which restores it from the run's checkpoint, or imports it again",
    "history.parquet": "remove it, and the report shows the run without its learning curve",
    "test.json": _EVALUATE_AGAIN,
    "val.json": _EVALUATE_ALL_AGAIN,
    "costs.json": _EVALUATE_ALL_AGAIN,
    "usage": "remove it, and the report leaves the time and energy that the run took blank",
    "search.json": _SEARCH_AGAIN,
    "study.journal": _SEARCH_AGAIN,
    "confirmed.json": "remove it and rerun the same command to confirm the best settings again",
    "cache.json": "remove the folder '{folder}', and the logit cache is filled again",
}


class DamagedFile(ConfigError):
    """A file below a results folder that raykd did not leave as it is: cut short, changed, or of another run."""


def damaged(path: Path, why: str) -> DamagedFile:
    """Return the error for the file `path`, in one line: the file, what is wrong with it, the remedy."""
    name = "usage" if path.parent.name == "usage" else path.name
    remedy = REMEDIES.get(name, "move it away and rerun the same command").format(folder=path.parent)
    return DamagedFile(f"'{path}' is damaged: {flattened(why)}; {remedy}")
