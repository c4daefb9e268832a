"""A search that loses a worker, then its driver, and then its time, ends where an undisturbed one does."""

import os
import signal
from pathlib import Path

import pytest
from disturbed_search import Disturbed
from experiment_runs import wait_until
from search_runs import TRIALS, folder_in, trials_in, with_its_teacher

from raykd.store.study import SearchTrial

pytestmark = [pytest.mark.ray, pytest.mark.nightly, pytest.mark.xdist_group("ray")]


@pytest.fixture(scope="module")
def disturbed(searched: tuple[Path, object], cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Disturbed:
    """Run three commands: the first loses its trial's worker and is then killed, the second gets Slurm's signal."""
    found = Disturbed(cluster, tmp_path_factory.mktemp("disturbed"))
    with_its_teacher(searched[0], found.results)

    def lose_worker_then_driver(pid: int) -> None:
        found.wait_until_reported(0, 3)
        killed = found.worker_of(0)
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: found.worker_of(0) != killed, "another worker")
        found.wait_until_reported(0, 6)
        os.kill(pid, signal.SIGKILL)

    def warn(pid: int) -> None:
        found.wait_until_reported(1, 1)
        os.kill(pid, signal.SIGUSR2)

    assert found.run(lose_worker_then_driver).exit_code == -signal.SIGKILL
    assert found.run(warn).exit_code == 75
    assert found.run().exit_code == 0
    return found


def undisturbed(searched: tuple[Path, object]) -> list[SearchTrial]:
    return trials_in(searched[0])[:TRIALS]


def test_trials_and_their_intermediate_values_are_the_same(disturbed: Disturbed, searched: tuple[Path, object]) -> None:
    assert trials_in(disturbed.results) == undisturbed(searched)


def test_no_trial_ran_to_its_end_twice(disturbed: Disturbed) -> None:
    for number in range(TRIALS):
        ends = [
            line
            for line in disturbed.lines
            if f"trial {number} " in line and ("done in" in line or "stopped after" in line)
        ]
        assert len(ends) <= 1, ends
    assert any("resumes in another worker" in line for line in disturbed.lines)


def test_done_trials_have_the_same_weights(disturbed: Disturbed, searched: tuple[Path, object]) -> None:
    done = [trial.number for trial in undisturbed(searched) if trial.state == "done"]
    for number in done:
        mine, others = folder_in(disturbed.results).run(number), folder_in(searched[0]).run(number)
        assert mine.best.read_bytes() == others.best.read_bytes()


def test_same_configuration_wins(disturbed: Disturbed, searched: tuple[Path, object]) -> None:
    reports = [(results / "report.json").read_text() for results in (disturbed.results, searched[0])]
    assert reports[0] == reports[1]
