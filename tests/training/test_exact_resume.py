"""Tests of exact resume: a run that is killed at any moment, any number of times, ends with the same bits."""

import os
import random
import time
from pathlib import Path
from typing import Any

import children
import pytest
from nightly import nightly_except
from resume_cases import CASES, FAST_CASES, PLACES, Kill, outcome, train, train_in_child

from raykd.errors import Interrupted, RunFailed
from raykd.store.run_folder import RunFolder
from raykd.training.hooks import CHECKPOINT_EVERY_S, Hooks

SOAK_ROUNDS = 20


def finish(case: str, folder: Path, **options: Any) -> dict[str, Any]:
    """Train to the end in a child process and return the outcome."""
    process = children.start(_train, case, folder, options)
    assert children.wait(process) == 0
    return outcome(folder)


def _train(case: str, folder: Path, options: dict[str, Any]) -> None:
    train_in_child(case, folder, **options)


def kill_at(case: str, folder: Path, kill: Kill, every_s: float) -> bool:
    """Return whether the resumed run was killed at that point; False if it ended without reaching it."""
    code = children.wait(children.start(_train, case, folder, {"kill": kill, "every_s": every_s}))
    assert code in (0, -9)
    return code == -9


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Outcomes of uninterrupted runs, each trained once."""
    known: dict[str, dict[str, Any]] = {}

    def get(case: str) -> dict[str, Any]:
        if case not in known:
            known[case] = finish(case, tmp_path_factory.mktemp("whole") / "run")
        return known[case]

    return get


@pytest.mark.parametrize("case", nightly_except(FAST_CASES[:1], FAST_CASES))
def test_killed_run_ends_with_the_same_bits(case: str, whole: Any, tmp_path: Path) -> None:
    """Four kills, saving after every step; the places are drawn with the case's name as seed."""
    drawn = random.Random(case)
    for _ in range(4):
        kill_at(case, tmp_path, Kill(drawn.choice(list(PLACES)), drawn.randint(1, 5)), every_s=0)
    assert finish(case, tmp_path, every_s=0) == whole(case)


@pytest.mark.nightly
def test_run_killed_between_rare_checkpoints_ends_with_the_same_bits(whole: Any, tmp_path: Path) -> None:
    case = CASES[0]
    for kill in (Kill("after a step", 3), Kill("before validation", 2), Kill("after a step", 10)):
        assert kill_at(case, tmp_path, kill, CHECKPOINT_EVERY_S)
    assert finish(case, tmp_path) == whole(case)


@pytest.mark.parametrize(
    "place", nightly_except(["before a rename"], ["half a file", "before a flush", "before a rename", "after a rename"])
)
@pytest.mark.nightly
def test_kill_inside_every_file_that_is_written_is_survived(place: str, whole: Any, tmp_path: Path) -> None:
    """One child after another dies at the first file, the second, ...: record, checkpoint, history, weights."""
    case, kills = CASES[0], 0
    for count in range(1, 7):
        assert kill_at(case, tmp_path, Kill(place, count), every_s=0)
    while kill_at(case, tmp_path, Kill(place, kills + 1), CHECKPOINT_EVERY_S):
        kills += 1
    assert kills >= 4
    assert outcome(tmp_path) == whole(case)
    assert not [path for path in tmp_path.rglob(".*") if path.name != ".lock"], "a half written file was left"


@pytest.mark.nightly
def test_kill_between_the_last_step_and_its_validation_is_survived(whole: Any, tmp_path: Path) -> None:
    """The checkpoint then stands behind an epoch's last step, with nothing left to train in it."""
    for _ in range(3):
        assert kill_at(CASES[0], tmp_path, Kill("before validation", 1), every_s=0)
    assert finish(CASES[0], tmp_path) == whole(CASES[0])


@pytest.mark.parametrize(
    "case",
    nightly_except(
        [
            "everything augmented",
            "averaged, accumulated, balanced",
            "memory inside an adapter, accumulated",
            "vit of timm, stochastic depth, erasing, repeats, adamw",
        ],
        FAST_CASES,
    ),
)
def test_run_stopped_at_a_step_ends_with_the_same_bits(case: str, whole: Any, tmp_path: Path) -> None:
    """Stop as after a signal, in one process: within an epoch, at the end of an epoch, twice in one epoch."""
    for steps in (2, 2, 1, 3):
        left = iter([False] * (steps - 1) + [True])
        with pytest.raises(Interrupted, match=r"stopped after epoch \d, step \d; rerun the same command to resume"):
            train(case, tmp_path, Hooks(should_stop=lambda left=left: next(left)))
        assert RunFolder(tmp_path).status() == "interrupted"
    train(case, tmp_path, Hooks())
    assert outcome(tmp_path) == whole(case)


@pytest.mark.nightly
def test_resume_keeps_the_initial_number_of_threads(whole: Any, tmp_path: Path) -> None:
    case, straight = CASES[0], tmp_path / "straight"
    two = finish(case, straight, threads=2)
    assert two["threads"] == 2
    assert kill_at_threads(case, tmp_path / "run", Kill("after a step", 6), threads=2)
    assert finish(case, tmp_path / "run", threads=1) == two
    assert kill_at_threads(case, tmp_path / "other", Kill("after a step", 6), threads=1)
    assert finish(case, tmp_path / "other", threads=2) == whole(case)


def kill_at_threads(case: str, folder: Path, kill: Kill, threads: int) -> bool:
    options = {"kill": kill, "every_s": 0, "threads": threads}
    return children.wait(children.start(_train, case, folder, options)) == -9


def test_of_two_processes_with_one_run_one_trains_and_the_other_names_it(whole: Any, tmp_path: Path) -> None:
    processes = [children.start(train_or_record, CASES[0], tmp_path / "run", tmp_path / f"error{n}") for n in range(3)]
    assert [children.wait(process) for process in processes] == [0, 0, 0]
    errors = [path.read_text(encoding="utf-8") for path in tmp_path.glob("error*")]
    assert len(errors) == 2 and all("run is locked by" in line for line in errors)
    assert outcome(tmp_path / "run") == whole(CASES[0])


def train_or_record(case: str, folder: Path, error_file: Path) -> None:
    """Train in a child process until the two other processes have failed; write the error if this one fails."""

    def wait() -> bool:
        while len(list(error_file.parent.glob("error*"))) < 2:
            time.sleep(0.01)
        return False

    try:
        train(case, folder, Hooks(should_stop=wait))
    except RunFailed as error:
        error_file.write_text(str(error), encoding="utf-8")


@pytest.mark.soak
@pytest.mark.parametrize("number", range(SOAK_ROUNDS))
def test_soak(number: int, tmp_path: Path) -> None:
    """Kills from outside at random times, kills from inside at random places, other threads asked for, again."""
    drawn = random.Random(f"{number} {os.environ.get('RAYKD_SOAK_SEED', '0')}")
    case, threads = CASES[number % len(CASES)], drawn.choice((1, 2))
    began = time.monotonic()
    expected = finish(case, tmp_path / "whole", threads=threads)
    seconds = time.monotonic() - began
    folder, kills = tmp_path / "run", 0
    # After the first checkpoint, from which on a run keeps its number of threads.
    children.wait(children.start(_train, case, folder, {"kill": Kill("after a step", 2), "threads": threads}))
    for _ in range(drawn.randint(3, 12)):
        options = {"every_s": drawn.choice((0, 0, 0.05, CHECKPOINT_EVERY_S)), "threads": drawn.choice((1, 2, 3))}
        inside = drawn.random() < 0.5
        if inside:
            options["kill"] = Kill(drawn.choice(list(PLACES)), drawn.randint(1, 12))
        process = children.start(_train, case, folder, options)
        if not inside:
            process.join(drawn.uniform(0, seconds))
            process.kill()
        kills += children.wait(process) == -9
    assert finish(case, folder, threads=drawn.choice((1, 2))) == expected, f"after {kills} kills"
