"""A run by two workers of which one is killed, at random moments, again and again: `make soak`."""

import contextlib
import random
import subprocess
import time
from pathlib import Path

import pytest
import small_experiment
from run_by_several import start_two, train_by_two

from raykd.store.run_folder import RunFolder

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3000)]

ROUNDS = 20
SETTINGS = (*small_experiment.SMALL, "teacher.epochs=150", "workers.cpus=1", "workers.gpus=0", "workers.count=2")
EVERY_S = 0.1
MISSES_S = 20.0
START_S = 4.0  # before the first step, on an idle machine


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return train_by_two(tmp_path_factory.mktemp("straight") / "two", SETTINGS).best.read_bytes()


@pytest.mark.parametrize("number", range(ROUNDS))
def test_run_whose_workers_are_killed_in_turn_ends_with_the_same_bits(
    number: int, undisturbed: bytes, tmp_path: Path
) -> None:
    chance = random.Random(number)
    run = RunFolder(tmp_path / "two" / "run")
    for _ in range(2):
        workers = start_two(tmp_path / "two", SETTINGS, EVERY_S)
        time.sleep(START_S + chance.uniform(0.0, 4.0))
        chance.shuffle(workers)
        workers[0].kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # it misses the other, and ends; or Ray would end it
            workers[1].wait(MISSES_S)
        for worker in workers:
            worker.kill()
            worker.wait()
    train_by_two(tmp_path / "two", SETTINGS, EVERY_S)
    assert run.best.read_bytes() == undisturbed
    assert [row["epoch"] for row in run.history()] == list(range(150))
