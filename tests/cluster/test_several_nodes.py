"""sbatch -N 2 slurm/ray_cluster.slurm on a real Slurm: one Ray over the job's nodes, and what happens to it."""

import json
import os
import time
from pathlib import Path

import pytest
import small_lab
from slurm_jobs import DRIVERS, ONE_CPU_EACH, SCRIPT, environment_with_ray, left_by_lost_node, leftovers
from testbed import Testbed

from raykd.runs import RunStore

pytestmark = pytest.mark.slurm

TWO = ("--nodes=2", "--cpus-per-task=2", "--mem=6G")
BOOT_TIMEOUT_S = 90
TAKEN_UP_S = 60


def test_one_ray_over_two_nodes_with_what_slurm_gave_and_the_experiments_exit_code(
    slurm: Testbed, repository: Path, tmp_path: Path
) -> None:
    report = tmp_path / "report.json"
    (tmp_path / "data" / "cifar10").mkdir(parents=True)
    env = {"RAYKD_SCRATCH": str(tmp_path / "scratch"), "RAYKD_DATA": str(tmp_path / "data")}
    job_id = slurm.sbatch([*TWO, SCRIPT, str(DRIVERS / "reports_nodes.py"), str(report), "7"], repository, env)
    job = slurm.wait(job_id, BOOT_TIMEOUT_S)
    assert job.exit_code == 7, job.output
    nodes = json.loads(report.read_text())
    assert {node["host"]: (node["CPU"], node["GPU"]) for node in nodes} == {"cn1": (2, 1), "cn2": (2, 1)}
    assert all(node["memory"] + node["object_store_memory"] == 6 * 1024**3 for node in nodes)
    assert {node["folder_mode"] for node in nodes} == {"0o700"}
    assert {node["token_mode"] for node in nodes} == {"0o600"}
    assert len({node["token_path"] for node in nodes}) == 2
    files = tmp_path / "scratch" / f"rk-{os.getuid()}-{job_id}-files-0"
    assert {node["raykd"] for node in nodes} == {str(files / "code" / "raykd")}, "workers take the staged code"
    assert {node["data"] for node in nodes} == {str(files / "data")}
    assert {name for node in nodes for name in node["data_files"]} == {"cifar10"}
    assert not list((tmp_path / "scratch").iterdir())
    assert "raykd: 1 of 2 nodes after " in job.output and "; waiting for cn2" in job.output
    assert leftovers(slurm) == []


@pytest.mark.parametrize(
    ("on_cn2", "words"),
    [
        ("echo 'OSError: no space left on cn2' >&2; exit 4", "Ray on cn2 ended with exit code 4"),
        ("echo 'waiting for a filesystem' >&2; sleep 60", "cn2 not joined after 8 s (RAYKD_START_TIMEOUT_S)"),
    ],
    ids=["ends", "hangs"],
)
def test_node_that_does_not_join_fails_the_job_with_its_name_and_log(
    slurm: Testbed, repository: Path, tmp_path: Path, on_cn2: str, words: str
) -> None:
    env = environment_with_ray(tmp_path, f'if [[ $(hostname) == cn2 ]]; then {on_cn2}; fi; exec $REAL "$@"')
    experiment = str(DRIVERS / "waits_for_signal.py")
    job_id = slurm.sbatch([*TWO, SCRIPT, experiment], repository, env | {"RAYKD_START_TIMEOUT_S": "8"})
    job = slurm.wait(job_id, timeout_s=40)
    assert job.exit_code == 1, job.output
    assert words in job.output
    assert ("no space left on cn2" in job.output) or ("waiting for a filesystem" in job.output)
    assert leftovers(slurm) == []


def test_cancelled_job_leaves_nothing_on_any_node(slurm: Testbed, repository: Path) -> None:
    job_id = slurm.sbatch([*TWO, SCRIPT, str(DRIVERS / "waits_for_signal.py")], repository)
    slurm.wait_for_output(job_id, "waiting\n", BOOT_TIMEOUT_S)
    slurm.run(["scancel", str(job_id)])
    job = slurm.wait(job_id, timeout_s=30)
    assert job.state == "CANCELLED"
    assert leftovers(slurm) == []


def test_run_over_two_nodes_goes_on_with_one_within_a_minute_of_the_loss_of_the_other(
    breakable: Testbed, repository: Path, tmp_path: Path
) -> None:
    words = [*small_lab.words(tmp_path), "--stage=teacher", "--set=workers.count=2", "--set=workers.min_count=1"]
    job_id = breakable.sbatch([*ONE_CPU_EACH, SCRIPT, *words], repository)
    breakable.wait_for_output(job_id, "  epoch  ", BOOT_TIMEOUT_S)
    (run,) = small_lab.runs(("teacher",))
    folder = RunStore(tmp_path).folder(run)
    breakable.power_off("cn2")
    began = time.monotonic()
    while folder.record()["resumes"] == 0 and time.monotonic() < began + TAKEN_UP_S:
        time.sleep(0.1)
    print(f"went on {time.monotonic() - began:.1f} s after the loss")
    assert time.monotonic() - began < TAKEN_UP_S, breakable.output(job_id)
    job = breakable.wait(job_id, timeout_s=180)
    assert (job.state, job.exit_code) == ("COMPLETED", 0), job.output
    assert "1 at a time, 1 to 2 workers of 1 CPU each" in job.output
    assert "cn2 is lost after " in job.output and "; going on with 1 of 2 nodes" in job.output
    assert (folder.record()["compute"]["workers"], folder.record()["resumes"]) == ([2, 1], 1)
    assert [row["epoch"] for row in folder.history()] == list(range(run.recipe.epochs))
    assert left_by_lost_node(breakable) == []
