"""A search whose whole job is killed again and again without a warning, or loses one of its nodes: `make soak`."""

import random
import time
from pathlib import Path

import pytest
from slurm_jobs import ONE_CPU_EACH, SCRIPT, left_by_lost_node
from testbed import Testbed

from raykd.store.study import SearchFolder, SearchTrial

pytestmark = [pytest.mark.slurm, pytest.mark.soak, pytest.mark.timeout(1800)]

ROUNDS, TRIALS = 2, 8
EXPERIMENT = """
import sys
sys.path.insert(0, {experiments!r})
from dataclasses import replace
from digits import experiment as digits
from raykd import Search, loguniform, main, uniform
space = {{"method.alpha": uniform(0, 1), "method.temperature": loguniform(1, 20)}}
search = Search(space, trials={trials}, grace_epochs=6, confirm=0, max_concurrent={max_concurrent})
experiment = replace(digits, search=search, seeds=(0,), student=replace(digits.student, epochs=180))
if __name__ == "__main__":
    main(experiment)
"""


BOOT_TIMEOUT_S = 90
TWO_CPUS = ("--cpus-per-task=2", "--no-requeue")


def write(file: Path, repository: Path, max_concurrent: int) -> Path:
    file.write_text(
        EXPERIMENT.format(experiments=str(repository / "experiments"), trials=TRIALS, max_concurrent=max_concurrent)
    )
    return file


def words(file: Path, results: Path, where: tuple[str, ...] = TWO_CPUS) -> list[str]:
    return [*where, SCRIPT, str(file), "--results", str(results), "--set", "workers.gpus=0"]


def trials_in(results: Path) -> list[SearchTrial]:
    return SearchFolder(results / "digits" / "search").trials()


def test_a_search_whose_job_is_killed_ends_like_an_uninterrupted_one(
    slurm: Testbed, repository: Path, tmp_path: Path
) -> None:
    file = write(tmp_path / "tune_digits.py", repository, max_concurrent=1)
    peace = slurm.wait(slurm.sbatch(words(file, tmp_path / "peace"), repository), 300)
    assert peace.exit_code == 0, peace.output
    wanted, kills = trials_in(tmp_path / "peace"), 0
    for seed in range(ROUNDS):
        moments, results = random.Random(seed), tmp_path / f"killed{seed}"
        while sum(trial.is_ended for trial in trials_in(results)) < TRIALS:
            job_id = slurm.sbatch(words(file, results), repository)
            slurm.wait_for_output(job_id, "starting workers", BOOT_TIMEOUT_S)
            time.sleep(moments.uniform(8, 20))  # a worker is there after 8 s
            slurm.run(["scancel", "--signal=KILL", "--full", str(job_id)])
            kills += slurm.wait(job_id, 120).state != "COMPLETED"
        ended = slurm.wait(slurm.sbatch(words(file, results), repository), 300)
        assert ended.exit_code == 0, ended.output
        assert trials_in(results) == wanted
        assert (results / "report.json").read_bytes() == (tmp_path / "peace" / "report.json").read_bytes()
    assert kills > ROUNDS, "a search of 8 trials outlives several jobs"
    assert slurm.processes() == []  # folders of jobs that were killed stay: no process was left to remove them
    print(f"{kills} jobs killed in {ROUNDS} searches")


def test_a_search_continues_without_a_lost_node(breakable: Testbed, repository: Path, tmp_path: Path) -> None:
    file, results = write(tmp_path / "tune_digits.py", repository, max_concurrent=2), tmp_path / "results"
    job_id = breakable.sbatch(words(file, results, ONE_CPU_EACH), repository)
    deadline = time.monotonic() + 120
    while (lost := trial_on(results, "cn2")) is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert lost is not None, breakable.output(job_id)
    breakable.power_off("cn2")
    job = breakable.wait(job_id, timeout_s=400)
    assert (job.state, job.exit_code) == ("COMPLETED", 0), job.output
    assert "; continuing with 1 of 2 nodes" in job.output
    assert [trial.state in ("done", "pruned") for trial in trials_in(results)] == [True] * TRIALS
    taken_over = SearchFolder(results / "digits" / "search").run(lost).require_record()
    assert taken_over.host == "cn1" and taken_over.resumes >= 1
    assert left_by_lost_node(breakable) == []


def trial_on(results: Path, host: str) -> int | None:
    """One that trains on `host` now."""
    folder = SearchFolder(results / "digits" / "search")
    running = (trial.number for trial in trials_in(results) if trial.state == "running")
    records = ((number, folder.run(number).record()) for number in running)
    on_host = (number for number, record in records if record and record.host == host)
    return next(on_host, None)
