"""A job that Slurm preempts, requeues or cancels saves at its current step, and resumes to the same bits."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import small_experiment
from run_by_several import train_by_two
from slurm_jobs import DRIVERS, SCRIPT, environment_with_ray, leftovers, start_now
from testbed import HERE, Testbed, missing

from raykd.store.run_store import RunStore

pytestmark = [pytest.mark.slurm, pytest.mark.nightly, pytest.mark.timeout(600)]

ONE_CPU = ("--cpus-per-task=1", "--mem=6G")
BOOT_TIMEOUT_S = 240
LONG = (*small_experiment.SMALL, "teacher.epochs=600", "workers.cpus=1", "workers.gpus=0")
BY_TWO = (*small_experiment.SMALL, "teacher.epochs=150", "workers.cpus=1", "workers.gpus=0", "workers.count=2")
SAVED = "every run is saved"


@pytest.fixture(scope="module")
def preempting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Testbed]:
    """A Slurm of two nodes in which `urgent` preempts the partitions `requeued` and `cancelled`."""
    if reason := missing():
        pytest.skip(reason)
    settings = (HERE / "preemption.conf").read_text()
    with Testbed.start(tmp_path_factory.mktemp("preempting"), num_nodes=2, settings=settings) as bed:
        yield bed


def train(bed: Testbed, repository: Path, results: Path, *options: str, settings: tuple[str, ...] = LONG) -> int:
    """Submit the training of the teacher, and wait until it trains."""
    words = [*small_experiment.words(results, settings), "--stage", "teacher"]
    job_id = bed.sbatch([*options, *ONE_CPU, SCRIPT, *words], repository)
    bed.wait_for_output(job_id, "  epoch  ", BOOT_TIMEOUT_S)
    return job_id


def preempt(bed: Testbed, num_nodes: int = 2) -> int:
    """Submit a job that needs every node, which the preempted job has to leave."""
    return bed.sbatch(["-p", "urgent", f"--nodes={num_nodes}", "--exclusive", "--wrap", "sleep 1"], bed.folder)


def assert_resumed_once(results: Path, tmp_path: Path) -> None:
    (teacher,) = small_experiment.runs(("teacher",), LONG)
    assert RunStore(results).folder(teacher).require_record().resumes == 1
    small_experiment.assert_undisturbed(teacher, results, tmp_path / "straight")


def test_a_job_preempted_with_grace_time_saves_is_requeued_and_ends_with_the_bits_of_an_uninterrupted_run(
    preempting: Testbed, repository: Path, tmp_path: Path
) -> None:
    job_id = train(preempting, repository, tmp_path / "results", "-p", "requeued")
    urgent = preempt(preempting)
    preempting.wait_for_output(job_id, "DUE TO JOB REQUEUE", timeout_s=35)  # within the 40 s of grace
    assert preempting.wait(urgent, timeout_s=60).exit_code == 0
    start_now(preempting, job_id)
    job = preempting.wait(job_id, timeout_s=300)
    assert (job.state, job.exit_code) == ("COMPLETED", 0), job.output
    assert SAVED in job.output and f"interrupted: requeueing job {job_id}" in job.output
    assert_resumed_once(tmp_path / "results", tmp_path)
    assert leftovers(preempting) == []


def test_a_job_whose_preemption_cancels_it_saves_and_ends_with_75_and_the_command_to_resume(
    preempting: Testbed, repository: Path, tmp_path: Path
) -> None:
    results = tmp_path / "results"
    job_id = train(preempting, repository, results, "-p", "cancelled")
    urgent = preempt(preempting)
    job = preempting.wait(job_id, timeout_s=35)
    assert job.exit_code == 75, job.output
    assert SAVED in job.output and "interrupted and not requeued: Slurm preempted it and cancels" in job.output
    assert preempting.wait(urgent, timeout_s=60).exit_code == 0
    words = [*small_experiment.words(results, LONG), "--stage", "teacher"]
    assert preempting.wait(preempting.sbatch([*ONE_CPU, SCRIPT, *words], repository), timeout_s=300).exit_code == 0
    assert_resumed_once(results, tmp_path)
    assert leftovers(preempting) == []


@pytest.mark.soak
def test_a_preempted_run_on_two_nodes_saves_on_both(preempting: Testbed, repository: Path, tmp_path: Path) -> None:
    job_id = train(preempting, repository, tmp_path / "results", "-p", "requeued", "--nodes=2", settings=BY_TWO)
    urgent = preempt(preempting)
    preempting.wait_for_output(job_id, "DUE TO JOB REQUEUE", timeout_s=35)
    preempting.wait(urgent, timeout_s=60)
    start_now(preempting, job_id)
    job = preempting.wait(job_id, timeout_s=300)
    assert (job.state, job.exit_code) == ("COMPLETED", 0), job.output
    assert SAVED in job.output
    (teacher,) = small_experiment.runs(("teacher",), BY_TWO)
    best = RunStore(tmp_path / "results").folder(teacher).best
    assert best.read_bytes() == train_by_two(tmp_path / "straight", BY_TWO).best.read_bytes()
    assert leftovers(preempting) == []


@pytest.mark.parametrize("nodes", [1, pytest.param(2, marks=pytest.mark.soak)])
def test_a_cancelled_job_saves_before_slurm_kills_it(
    preempting: Testbed, repository: Path, tmp_path: Path, nodes: int
) -> None:
    settings = BY_TWO if nodes == 2 else LONG
    job_id = train(preempting, repository, tmp_path, f"--nodes={nodes}", settings=settings)
    preempting.run(["scancel", str(job_id)])
    job = preempting.wait(job_id, timeout_s=40)
    assert job.state == "CANCELLED" and SAVED in job.output, job.output
    assert "with exit code 75" in job.output and "requeu" not in job.output
    assert leftovers(preempting) == []


@pytest.mark.soak
def test_a_job_requeued_by_hand_saves_and_resumes(preempting: Testbed, repository: Path, tmp_path: Path) -> None:
    job_id = train(preempting, repository, tmp_path / "results")
    preempting.run(["scontrol", "requeue", str(job_id)])
    start_now(preempting, job_id)
    job = preempting.wait(job_id, timeout_s=300)
    assert (job.state, job.exit_code) == ("COMPLETED", 0), job.output
    assert SAVED in job.output
    assert_resumed_once(tmp_path / "results", tmp_path)
    assert leftovers(preempting) == []


# A node may be unable to read the mode of preemption. Here scontrol would print it, because it is the partition's.
SCONTROL = """#!/bin/sh
[ "$1 $2" = "show partition" ] && exit 1
exec {real} "$@"
"""


@pytest.mark.parametrize("partition", ["requeued", "cancelled"])
def test_a_preempted_job_that_cannot_read_the_mode_requeues_itself_and_has_the_command_to_resume(
    preempting: Testbed, repository: Path, tmp_path: Path, partition: str
) -> None:
    """Slurm requeues a job in its grace time even where it would cancel it."""
    env = environment_with_ray(tmp_path, 'exec $REAL "$@"')
    program, real = tmp_path / "bin" / "scontrol", shutil.which("scontrol")
    program.write_text(SCONTROL.format(real=real))
    program.chmod(0o755)
    words = [SCRIPT, str(DRIVERS / "resumes.py")]
    job_id = preempting.sbatch(["-p", partition, *ONE_CPU, *words], repository, env)
    preempting.wait_for_output(job_id, "waiting\n", BOOT_TIMEOUT_S)
    urgent = preempt(preempting)
    preempting.wait_for_output(job_id, "resume with: cd ", timeout_s=60)
    assert preempting.wait(urgent, timeout_s=60).exit_code == 0
    job = preempting.job(job_id)
    assert (job["JobState"], job["Restarts"]) == ("PENDING", "1"), preempting.output(job_id)
    start_now(preempting, job_id)
    assert "resumed\n" in preempting.wait(job_id, timeout_s=BOOT_TIMEOUT_S).output
    assert leftovers(preempting) == []
