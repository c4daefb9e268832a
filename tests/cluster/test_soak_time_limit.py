"""A recipe that takes longer than the job's time limit, which Slurm enforces: `make soak`."""

import time
from pathlib import Path

import pytest
import small_experiment
from slurm_jobs import SCRIPT, leftovers, start_now
from testbed import ENDED, Testbed

from raykd.store.run_store import RunStore

pytestmark = [pytest.mark.slurm, pytest.mark.soak, pytest.mark.timeout(1800)]

LONG = (*small_experiment.SMALL, "teacher.epochs=4000", "workers.cpus=1", "workers.gpus=0")  # about 100 s of training
# Slurm sends the signal 30 to 90 s before the end: it checks once a minute.
LIMITED = ("--time=2", "--signal=B:USR2@30", "--cpus-per-task=1", "--mem=6G")
LIMIT_S = 900


def test_a_recipe_longer_than_the_time_limit_ends_with_the_bits_of_an_uninterrupted_one(
    slurm: Testbed, repository: Path, tmp_path: Path
) -> None:
    words = [*small_experiment.words(tmp_path / "results", LONG), "--stage", "teacher"]
    job_id = slurm.sbatch([*LIMITED, SCRIPT, *words], repository)
    deadline, requeues = time.monotonic() + LIMIT_S, 0
    while slurm.job(job_id)["JobState"] not in ENDED and time.monotonic() < deadline:
        if slurm.output(job_id).count("DUE TO JOB REQUEUE") > requeues:
            requeues += 1
            start_now(slurm, job_id)
        time.sleep(0.2)
    job = slurm.wait(job_id, timeout_s=1)
    assert (job.state, job.exit_code) == ("COMPLETED", 0), job.output
    assert requeues >= 1 and job.output.count("SIGUSR2: Slurm will end the job soon; ") == requeues
    (run,) = small_experiment.runs(("teacher",), LONG)
    assert RunStore(tmp_path / "results").folder(run).require_record().resumes == requeues
    small_experiment.assert_undisturbed(run, tmp_path / "results", tmp_path / "straight")
    assert leftovers(slurm) == []
    print(f"{requeues} requeues")
