"""Bad inputs of `raykd runs` and `raykd clean`, and of names of runs: nothing is removed."""

import atexit
from collections.abc import Callable, Sequence
from pathlib import Path

from written_results import finished, interrupt

from bad_inputs.case import BadInput
from raykd.store.run_folder import RunFolder
from raykd.store.run_store import RunStore


def _typed(*words: str) -> Callable[[Path], Sequence[str | Path]]:
    """Return the command on five finished runs."""

    def make(folder: Path) -> Sequence[str | Path]:
        finished(folder / "results")
        return [words[0], "--results", folder / "results", *words[1:]]

    return make


def _locked(folder: Path) -> Sequence[str | Path]:
    """Lock a run, as the process that trains it does, until the tests end."""
    plan = finished(folder / "results")
    run = RunStore(folder / "results").folder(plan.runs[1])
    lock = run.lock()
    atexit.register(lambda: (lock, run))
    return ["runs", "--results", folder / "results", "rm", run.path.name, "--yes"]


def _needed(folder: Path) -> Sequence[str | Path]:
    plan = finished(folder / "results")
    student = RunStore(folder / "results").folder(plan.runs[-1])
    interrupt(student)
    with RunFolder(student.path).lock():
        pass  # the lock's file exists
    with RunStore(folder / "results").folder(plan.runs[0]).lock():
        pass
    return ["runs", "--results", folder / "results", "rm", "teach", "--yes"]


CASES = [
    BadInput("runs: no results folder", lambda folder: ["runs", "--results", folder / "no"], ("does not exist",)),
    BadInput(
        "runs: the results folder is a file",
        lambda folder: [(folder / "file").touch() or "clean", "--results", folder / "file"],
        ("is not a folder", "--results"),
    ),
    BadInput("runs: an ambiguous name", _typed("runs", "show", "baseline"), ("names 2 runs", "small/baseline-")),
    BadInput(
        "rm: an ambiguous name", _typed("runs", "rm", "distilled", "--yes"), ("names 2 runs", "name one of small/dist")
    ),
    BadInput("rm: an unknown run", _typed("runs", "rm", "nosuch", "--yes"), ("no run 'nosuch'", "5 runs")),
    BadInput("rm: a locked run", _locked, ("is locked by another process", "wait for it to end")),
    BadInput("rm: a needed teacher", _needed, ("is still needed by small/distilled-", "--force")),
    BadInput("tag: a space", _typed("runs", "tag", "teach", "my paper"), ("tag 'my paper'", "no spaces")),
    BadInput("tag: removed without being there", _typed("runs", "tag", "teach", "x", "--untag"), ("has none",)),
    BadInput("runs: an age without a unit", _typed("runs", "--older-than", "7"), ("--older-than 7", "such as 7d")),
    BadInput("runs: an unknown family", _typed("runs", "--family", "smal"), ("did you mean 'small'",)),
]
