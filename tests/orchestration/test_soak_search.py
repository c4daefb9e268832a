"""Searches whose workers and drivers are killed at random moments, and trials of several workers: `make soak`."""

import os
import random
import signal
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from disturbed_search import Disturbed
from search_runs import TRIALS, changed, folder_in, run_search, trials_in, with_its_teacher

from raykd.spec.experiment import Workers

pytestmark = [pytest.mark.ray, pytest.mark.soak, pytest.mark.xdist_group("ray"), pytest.mark.timeout(1800)]

ROUNDS, MOST_KILLS = 10, 8
MOST_LOST = 2  # workers of one command; a trial that loses three has failed
LONGEST_S = 4.0  # between two kills; a trial that is not stopped takes 2 s on an idle core


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_search_that_is_killed_again_and_again_ends_as_an_undisturbed_one(
    seed: int, cluster: str, searched: tuple[Path, object], tmp_path: Path
) -> None:
    moments, kills = random.Random(seed), {"worker": 0, "driver": 0}
    disturbed = Disturbed(cluster, tmp_path)
    with_its_teacher(searched[0], disturbed.results)

    def kill(pid: int) -> None:
        disturbed.begun()
        lost = 0
        while sum(kills.values()) < MOST_KILLS:
            time.sleep(moments.uniform(0, LONGEST_S))
            if moments.random() < 0.5:
                os.kill(pid, signal.SIGKILL)
                kills["driver"] += 1
                return
            if lost < MOST_LOST and (number := disturbed.undone()) is not None:
                with suppress(ProcessLookupError):
                    os.kill(disturbed.worker_of(number), signal.SIGKILL)
                    lost += 1
                    kills["worker"] += 1

    while (exit_code := disturbed.run(kill).exit_code) != 0:
        assert exit_code == -signal.SIGKILL, disturbed.lines[-5:]
    assert trials_in(disturbed.results) == trials_in(searched[0])[:TRIALS]
    for trial in trials_in(disturbed.results):
        mine, others = folder_in(disturbed.results).run(trial.number), folder_in(searched[0]).run(trial.number)
        assert trial.state != "done" or mine.best.read_bytes() == others.best.read_bytes()
    assert (disturbed.results / "report.json").read_bytes() == (searched[0] / "report.json").read_bytes()
    print(kills)


def test_trials_of_two_workers_are_stopped_and_come_to_their_ends(cluster: str, tmp_path: Path) -> None:
    asked = replace(changed(trials=4, confirm=0), workers=Workers(count=2, cpus=1), seeds=(0,))
    ended = run_search(tmp_path, asked)
    assert (ended.exit_code, ended.error) == (0, "")
    assert {trial.state for trial in trials_in(tmp_path)} == {"done", "pruned"}
    for trial in trials_in(tmp_path):
        record = folder_in(tmp_path).run(trial.number).require_record()
        assert record.compute.workers[0] == 2
        assert trial.state != "done" or (record.best and trial.values == (record.best.val_top1,))
