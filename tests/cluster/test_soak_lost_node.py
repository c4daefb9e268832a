"""A node is lost under a plan: its runs resume on another node, or the job is requeued. `make soak`."""

import time
from pathlib import Path

import pytest
import small_experiment
from slurm_jobs import ONE_CPU_EACH, SCRIPT, left_by_lost_node
from testbed import Testbed

from raykd.store.run_folder import RunFolder
from raykd.store.run_store import RunStore

pytestmark = [pytest.mark.slurm, pytest.mark.soak, pytest.mark.timeout(600)]

BOOT_TIMEOUT_S = 90
RESUMED_S = 60


def run_on(results: Path, host: str) -> str:
    """Return the name of a run that is training on `host`, or ''."""
    for path in results.glob("*/*/run.json"):
        record = RunFolder(path.parent).require_record()
        if record.status == "running" and record.host == host:
            return path.parent.name
    return ""


def test_a_job_continues_without_a_lost_node_and_ends_with_the_same_bits(
    breakable: Testbed, repository: Path, tmp_path: Path
) -> None:
    results = tmp_path / "results"
    job_id = breakable.sbatch([*ONE_CPU_EACH, SCRIPT, *small_experiment.words(results)], repository)
    breakable.wait_for_output(job_id, "  epoch  ", BOOT_TIMEOUT_S)
    deadline = time.monotonic() + 30
    while not (lost := run_on(results, "cn2")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert lost, "no run on cn2: the plan is not spread over the nodes"
    breakable.power_off("cn2")
    job = breakable.wait(job_id, timeout_s=180)
    assert (job.state, job.exit_code) == ("COMPLETED", 0), job.output
    assert "cn2 is lost after " in job.output and "; continuing with 1 of 2 nodes" in job.output
    plan = small_experiment.runs()
    (run,) = (run for run in plan if run.name == lost)
    assert RunStore(results).folder(run).require_record().host == "cn1", "the run was taken over"
    for run in plan:
        small_experiment.assert_undisturbed(run, results, tmp_path / "straight")
    assert left_by_lost_node(breakable) == []


def test_a_run_on_two_nodes_continues_on_one_within_a_minute_of_a_node_failure(
    breakable: Testbed, repository: Path, tmp_path: Path
) -> None:
    words = [*small_experiment.words(tmp_path), "--stage=teacher", "--set=workers.count=2", "--set=workers.min_count=1"]
    job_id = breakable.sbatch([*ONE_CPU_EACH, SCRIPT, *words], repository)
    breakable.wait_for_output(job_id, "  epoch  ", BOOT_TIMEOUT_S)
    (run,) = small_experiment.runs(("teacher",))
    folder = RunStore(tmp_path).folder(run)
    breakable.power_off("cn2")
    began = time.monotonic()
    while folder.require_record().resumes == 0 and time.monotonic() < began + RESUMED_S:
        time.sleep(0.1)
    print(f"resumed {time.monotonic() - began:.1f} s after the loss")
    assert time.monotonic() - began < RESUMED_S, breakable.output(job_id)
    job = breakable.wait(job_id, timeout_s=180)
    assert (job.state, job.exit_code) == ("COMPLETED", 0), job.output
    assert "1 run at a time with 1 to 2 workers of 1 CPU" in job.output
    assert "cn2 is lost after " in job.output and "; continuing with 1 of 2 nodes" in job.output
    assert (folder.require_record().compute.workers, folder.require_record().resumes) == ((2, 1), 1)
    assert [row["epoch"] for row in folder.history()] == list(range(run.recipe.epochs))
    assert left_by_lost_node(breakable) == []


def test_a_job_that_lost_the_nodes_for_its_run_saves_and_is_requeued(
    breakable: Testbed, repository: Path, tmp_path: Path
) -> None:
    words = [*small_experiment.words(tmp_path), "--stage=teacher", "--set=workers.count=2"]
    job_id = breakable.sbatch([*ONE_CPU_EACH, SCRIPT, *words], repository)
    breakable.wait_for_output(job_id, "  epoch  ", BOOT_TIMEOUT_S)
    breakable.power_off("cn2")
    breakable.wait_for_output(job_id, f"interrupted: requeueing job {job_id}", timeout_s=120)
    output = breakable.output(job_id)
    assert "the others have room for 1 of 2 workers that a run requires; rerun the same command" in output
    deadline = time.monotonic() + 60
    while breakable.job(job_id)["JobState"] != "PENDING" and time.monotonic() < deadline:
        time.sleep(0.1)
    assert breakable.job(job_id)["JobState"] == "PENDING"
    (run,) = small_experiment.runs(("teacher",))
    assert RunStore(tmp_path).folder(run).status() == "interrupted"
    assert RunStore(tmp_path).folder(run).checkpoint.is_file()
