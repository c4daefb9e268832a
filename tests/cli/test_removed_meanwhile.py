"""Commands that read a results folder while another command removes a run or a search from it.

The removal happens at the n-th file or folder that the command opens, for each n: it lists what is left, or ends with
one line.
"""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_runs import experiment, plan_of
from written_records import search_record
from written_results import CHECKPOINT, finished, interrupt

from raykd.cli import parser
from raykd.config import to_dict
from raykd.errors import is_removed_below
from raykd.spec.search import Search, uniform
from raykd.store.run_folder import RunFolder
from raykd.store.run_store import RunStore
from raykd.store.study import SearchFolder, SearchStudy

EVENTS = ("open", "os.listdir", "os.scandir", "os.rename")
MAX_OPENED = 10  # moments of a removal that are tried for one command, evenly spread


class Opened:
    """Counts what is opened below a folder, and calls `act` before the one with the number `at`."""

    def __init__(self) -> None:
        self.scope, self.count, self.at, self.act = "", 0, -1, Callable[[], None]
        sys.addaudithook(self.hook)  # stays for the life of the process

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.scope or event not in EVENTS or not isinstance(arguments[0], str | os.PathLike):
            return
        if os.fspath(arguments[0]).startswith(self.scope):
            self.count += 1
            if self.count == self.at:
                self.scope = ""
                self.act()

    def during(self, scope: Path, at: int, act: Callable[[], None], run: Callable[[], int]) -> int:
        """Return the exit code of `run`, during which `act` is called."""
        self.scope, self.count, self.at, self.act = str(scope), 0, at, act
        try:
            return run()
        finally:
            self.scope = ""


OPENED = Opened()


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a results folder with five runs, one of them interrupted, and a search of two trials."""
    results = tmp_path_factory.mktemp("original")
    runs = finished(results).runs
    store = RunStore(results)
    interrupt(store.folder(runs[-2]))
    search = Search(space={"method.alpha": uniform(0, 1)}, trials=3, scheduler="none")
    folder = SearchFolder(results / "small" / "search")
    with folder.lock():
        folder.write_record(search_record(family="small", search=to_dict(search), cache="0123456789abcdef"))
        study = SearchStudy(folder, search, {"method.alpha": 0.5})
        for number in range(2):
            study.start_trial()
            trial = folder.run(number)
            trial.checkpoint.parent.mkdir(parents=True)
            trial.checkpoint.write_bytes(CHECKPOINT)
            trial.write_record(store.folder(runs[-1]).require_record())
    return results


def removed(path: Path) -> None:
    """Remove a run or a search as `raykd runs rm` does."""
    hidden = path.with_name(".removed-0123456789ab")
    path.rename(hidden)
    shutil.rmtree(hidden)


@pytest.mark.parametrize("part", ["distilled", "search"])
@pytest.mark.parametrize(
    "words",
    [["runs"], ["runs", "--trials"], ["runs", "show", "RUN"], ["runs", "tag", "RUN", "x"], ["clean", "--yes"]],
    ids=["list", "list trials", "show", "tag", "clean"],
)
def test_removal_during_a_command_is_no_traceback(
    words: list[str], part: str, original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = next(run.name for run in reversed(plan_of(experiment(seeds=(0, 1))).runs))
    arguments = [name if word == "RUN" else word for word in words] + ["--results", str(tmp_path / "results")]

    def run_removing(at: int) -> int:
        """Run the command, remove at its `at`-th opened file, and return how many it opened."""
        results = tmp_path / "results"
        shutil.rmtree(results, ignore_errors=True)
        shutil.copytree(original, results)
        path = results / "small" / (name if part == "distilled" else "search")
        code = OPENED.during(results, at, lambda: removed(path), lambda: parser.entry(arguments))
        error = capsys.readouterr().err
        assert (code, error.count("\n")) in ((0, 0), (1, 1), (2, 1)), error
        return OPENED.count

    num_opened = run_removing(-1)
    for at in range(1, num_opened + 1, max(1, num_opened // MAX_OPENED)):
        run_removing(at)


def test_weights_that_are_removed_while_they_are_hashed_are_missing(run_folder: RunFolder, original: Path) -> None:
    (path,) = original.glob("small/distilled-*-s1-*")
    shutil.copytree(path, run_folder.path)
    folder = RunFolder(run_folder.path)
    best = str(folder.best)
    OPENED.during(folder.path, 2, folder.best.unlink, lambda: bool(folder.weights_damage()))
    assert not Path(best).exists() and folder.weights_damage() == "it is missing"


def test_only_what_is_missing_below_the_results_folder_counts_as_removed(tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    for path, expected in ((tmp_path / "run" / "x", True), (tmp_path / "there", False), (Path("/no/x"), False)):
        assert is_removed_below(str(tmp_path), FileNotFoundError(2, "gone", str(path))) == expected
    assert not is_removed_below(str(tmp_path), FileNotFoundError("without a name"))
    assert not is_removed_below(None, FileNotFoundError(2, "gone", str(tmp_path / "x")))
