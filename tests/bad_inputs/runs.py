"""Bad inputs of `raykd runs` and `raykd clean`, and of names of runs: nothing is removed."""

import atexit
from collections.abc import Callable, Sequence
from pathlib import Path

from search_folders import finished_search
from written_results import finished, interrupt

from bad_inputs.case import BadInput
from raykd.store.run_folder import RunFolder
from raykd.store.run_store import RunStore
from raykd.store.study import SearchFolder


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


def _search(results: Path) -> SearchFolder:
    """Write a finished search, in whose folders the files of locks exist."""
    search = SearchFolder(finished_search(results).path)
    for path in (search.path, *search.path.glob("trials/*")):
        (path / ".lock").touch()
    return search


def _searched(name: str) -> Callable[[Path], Sequence[str | Path]]:
    """Return the command that removes `name` from results with a search."""

    def make(folder: Path) -> Sequence[str | Path]:
        _search(folder / "results")
        return ["runs", "--results", folder / "results", "rm", name, "--yes"]

    return make


def _locked_search(folder: Path) -> Sequence[str | Path]:
    """Lock a search, as its command does, until the tests end."""
    search = _search(folder / "results")
    lock = search.lock()
    atexit.register(lambda: (lock, search))
    return ["runs", "--results", folder / "results", "rm", "cnn/search", "--yes"]


def _needed(folder: Path) -> Sequence[str | Path]:
    plan = finished(folder / "results")
    student = RunStore(folder / "results").folder(plan.runs[-1])
    interrupt(student)
    with RunFolder(student.path).lock():
        pass  # the lock's file exists
    with RunStore(folder / "results").folder(plan.runs[0]).lock():
        pass
    return ["runs", "--results", folder / "results", "rm", "teach", "--yes"]


def _earlier_layout(*words: str) -> Callable[[Path], Sequence[str | Path]]:
    """Return the command on a folder whose teacher lies in the folder of its family."""

    def make(folder: Path) -> Sequence[str | Path]:
        results = folder / "results"
        teacher = RunStore(results).folder(finished(results).runs[0]).path
        teacher.rename(results / "small" / teacher.name)
        return [words[0], "--results", results, *words[1:]]

    return make


CASES = [
    BadInput("clean: the earlier layout", _earlier_layout("clean", "--yes"), ("1 teacher", "migrate --results")),
    BadInput("rm: the earlier layout", _earlier_layout("runs", "rm", "teach", "--yes"), ("migrate --results",)),
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
    BadInput("rm: a search's trial", _searched("cnn/search/0001"), ("is a trial", "runs rm cnn/search'")),
    BadInput("rm: a misspelled search", _searched("cnn/serch"), ("no run or search", "did you mean 'cnn/search'?")),
    BadInput("rm: a locked search", _locked_search, ("search 'cnn/search' is locked by", "wait for it to end")),
    BadInput("tag: a space", _typed("runs", "tag", "teach", "my paper"), ("tag 'my paper'", "no spaces")),
    BadInput("tag: removed without being there", _typed("runs", "tag", "teach", "x", "--untag"), ("has none",)),
    BadInput("runs: an age without a unit", _typed("runs", "--older-than", "7"), ("--older-than 7", "such as 7d")),
    BadInput("runs: an unknown family", _typed("runs", "--family", "smal"), ("did you mean 'small'",)),
]
