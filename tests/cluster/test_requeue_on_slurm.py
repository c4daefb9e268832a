"""A job that the signal before its time limit interrupts is requeued and resumes to the same bits."""

import shlex
import time
from pathlib import Path

import pytest
import small_experiment
from run_by_several import train_by_two
from slurm_jobs import DRIVERS, SCRIPT, leftovers, start_now
from testbed import POLL_S, Job, Testbed

from raykd.store.run_store import RunStore

pytestmark = pytest.mark.slurm

ONE_CPU = ("--cpus-per-task=1", "--mem=6G")
BOOT_TIMEOUT_S = 180
ALONE = (*small_experiment.SMALL, "teacher.epochs=120", "workers.cpus=1", "workers.gpus=0")
BY_TWO = (*small_experiment.SMALL, "teacher.epochs=150", "workers.cpus=1", "workers.gpus=0", "workers.count=2")


def warn(slurm: Testbed, job_id: int) -> None:
    """Send the signal before the time limit, as Slurm does, to the batch script only."""
    slurm.run(["scancel", "--batch", "--signal=USR2", str(job_id)])


def interrupt_and_requeue(slurm: Testbed, repository: Path, options: list[str], words: list[str], at: str) -> Job:
    """Warn a job once it has printed `at`, requeue it, and assert that it completes."""
    job_id = slurm.sbatch([*options, *ONE_CPU, SCRIPT, *words], repository)
    slurm.wait_for_output(job_id, at, BOOT_TIMEOUT_S)
    warn(slurm, job_id)
    slurm.wait_for_output(job_id, "DUE TO JOB REQUEUE", timeout_s=60)
    start_now(slurm, job_id)
    job = slurm.wait(job_id, timeout_s=300)
    assert (job.state, job.exit_code) == ("COMPLETED", 0), job.output
    assert f"interrupted: requeueing job {job_id}" in job.output
    assert "restart 1: starting Ray" in job.output, "the log of the first run is kept"
    assert leftovers(slurm) == []
    return job


def test_an_interrupted_job_is_requeued_and_its_experiment_is_started_again(slurm: Testbed, repository: Path) -> None:
    job = interrupt_and_requeue(slurm, repository, [], [str(DRIVERS / "resumes.py")], at="waiting\n")
    assert job.output.count("waiting\n") == job.output.count("resumed\n") == 1


@pytest.mark.nightly
def test_a_run_resumes_after_a_requeue_and_ends_with_the_bits_of_an_uninterrupted_run(
    slurm: Testbed, repository: Path, tmp_path: Path
) -> None:
    words = [*small_experiment.words(tmp_path / "results", ALONE), "--stage", "teacher"]
    interrupt_and_requeue(slurm, repository, [], words, at="  epoch  ")
    (teacher,) = small_experiment.runs(("teacher",), ALONE)
    assert RunStore(tmp_path / "results").folder(teacher).require_record().resumes == 1
    small_experiment.assert_undisturbed(teacher, tmp_path / "results", tmp_path / "straight")


@pytest.mark.nightly
def test_a_run_on_two_nodes_resumes_after_a_requeue_and_ends_with_the_bits_of_an_uninterrupted_run(
    slurm: Testbed, repository: Path, tmp_path: Path
) -> None:
    words = [*small_experiment.words(tmp_path / "results", BY_TWO), "--stage", "teacher"]
    interrupt_and_requeue(slurm, repository, ["--nodes=2"], words, at="  epoch  ")
    (teacher,) = small_experiment.runs(("teacher",), BY_TWO)
    folder = RunStore(tmp_path / "results").folder(teacher)
    assert (folder.require_record().resumes, folder.require_record().compute.workers) == (1, (2,))
    assert folder.best.read_bytes() == train_by_two(tmp_path / "straight", BY_TWO).best.read_bytes()


@pytest.mark.parametrize(
    ("options", "env", "why"),
    [
        (["--no-requeue"], {}, "requeueing is disabled for this job or on this cluster (sbatch --requeue enables it)"),
        ([], {"RAYKD_MAX_REQUEUES": "0"}, "RAYKD_MAX_REQUEUES = 0 disables requeueing"),
    ],
    ids=["forbidden", "budget"],
)
def test_a_job_that_is_not_requeued_ends_with_75_and_the_command_to_resume(
    slurm: Testbed, repository: Path, options: list[str], env: dict[str, str], why: str
) -> None:
    words = [str(DRIVERS / "waits_for_signal.py"), "a  b", "$(id)"]
    job_id = slurm.sbatch([*ONE_CPU, *options, SCRIPT, *words], repository, env)
    slurm.wait_for_output(job_id, "starting Ray", BOOT_TIMEOUT_S)
    warn(slurm, job_id)
    job = slurm.wait(job_id, timeout_s=60)
    assert (job.exit_code, "interrupted by SIGUSR2 while Ray was starting" in job.output) == (75, True), job.output
    line = shlex.join(["sbatch", SCRIPT, *words])
    assert f"interrupted and not requeued: {why}; to resume: cd {repository} && {line}" in job.output
    assert leftovers(slurm) == []


def test_a_cancelled_job_is_not_requeued(slurm: Testbed, repository: Path) -> None:
    job_id = slurm.sbatch([*ONE_CPU, SCRIPT, str(DRIVERS / "waits_for_signal.py")], repository)
    slurm.wait_for_output(job_id, "starting Ray", BOOT_TIMEOUT_S)
    slurm.run(["scancel", str(job_id)])
    job = slurm.wait(job_id, timeout_s=60)
    assert job.state == "CANCELLED" and "requeu" not in job.output
    assert leftovers(slurm) == []


@pytest.mark.nightly
def test_a_job_without_a_new_step_stops_after_two_restarts(slurm: Testbed, repository: Path, tmp_path: Path) -> None:
    """The time limit of such a job may be shorter than the time between the signal and the limit."""
    words = [*small_experiment.words(tmp_path / "results"), "--stage", "teacher"]
    job_id = slurm.sbatch([*ONE_CPU, SCRIPT, *words], repository)
    for number in range(3):
        while slurm.output(job_id).count("starting Ray") <= number:
            assert slurm.job(job_id)["JobState"] in ("PENDING", "RUNNING", "CONFIGURING"), slurm.output(job_id)
            time.sleep(POLL_S)
        warn(slurm, job_id)
        if number < 2:
            while slurm.output(job_id).count("DUE TO JOB REQUEUE") <= number:
                time.sleep(POLL_S)
            start_now(slurm, job_id)
    job = slurm.wait(job_id, timeout_s=60)
    assert (job.state, job.exit_code) == ("FAILED", 75), job.output
    assert "interrupted and not requeued: 2 restarts in a row trained no new step" in job.output
    assert not (repository / f".raykd-job-{job_id}.json").exists() and leftovers(slurm) == []
