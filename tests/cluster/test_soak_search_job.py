"""A search whose whole job is killed without a warning, at random moments, and submitted again: `make soak`."""

import random
import time
from pathlib import Path

import pytest
from slurm_jobs import SCRIPT, leftovers
from testbed import Testbed

from raykd.study import SearchFolder, Trial

pytestmark = [pytest.mark.slurm, pytest.mark.soak, pytest.mark.timeout(1800)]

ROUNDS, TRIALS = 4, 8
EXPERIMENT = """
import sys
sys.path.insert(0, {experiments!r})
from dataclasses import replace
from digits import experiment as digits
from raykd import Search, loguniform, main, uniform
space = {{"method.alpha": uniform(0, 1), "method.temperature": loguniform(1, 20)}}
search = Search(space, trials={trials}, grace_epochs=6, confirm=0, at_once=1)
experiment = replace(digits, search=search, seeds=(0,), student=replace(digits.student, epochs=180))
if __name__ == "__main__":
    main(experiment)
"""


def words(file: Path, results: Path) -> list[str]:
    return [
        "--cpus-per-task=2",
        "--no-requeue",
        SCRIPT,
        str(file),
        "--results",
        str(results),
        "--set",
        "workers.gpus=0",
    ]


def trials_in(results: Path) -> list[Trial]:
    return SearchFolder(results / "digits" / "search").trials()


def test_search_whose_job_is_killed_ends_as_an_undisturbed_one(
    slurm: Testbed, repository: Path, tmp_path: Path
) -> None:
    file = tmp_path / "tune_digits.py"
    file.write_text(EXPERIMENT.format(experiments=str(repository / "experiments"), trials=TRIALS))
    peace = slurm.wait(slurm.sbatch(words(file, tmp_path / "peace"), repository), 300)
    assert peace.exit_code == 0, peace.output
    wanted, kills = trials_in(tmp_path / "peace"), 0
    for seed in range(ROUNDS):
        moments, results = random.Random(seed), tmp_path / f"killed{seed}"
        while sum(trial.is_ended for trial in trials_in(results)) < TRIALS:
            job_id = slurm.sbatch(words(file, results), repository)
            before = len(trials_in(results))
            while not any(trial.state == "begun" for trial in trials_in(results)) and len(trials_in(results)) <= before:
                assert slurm.job(job_id)["JobState"] in ("PENDING", "RUNNING", "CONFIGURING"), slurm.output(job_id)
                time.sleep(0.1)
            time.sleep(moments.uniform(8, 20))  # a worker is there after 8 s
            slurm.run(["scancel", "--signal=KILL", "--full", str(job_id)])
            kills += slurm.wait(job_id, 120).exit_code != 0
        ended = slurm.wait(slurm.sbatch(words(file, results), repository), 300)
        assert ended.exit_code == 0, ended.output
        assert trials_in(results) == wanted
        assert (results / "report.json").read_bytes() == (tmp_path / "peace" / "report.json").read_bytes()
    assert leftovers(slurm) == []
    print(f"{kills} jobs killed in {ROUNDS} searches")
