"""`sbatch -N 2 slurm/ray_cluster.slurm` on a real Slurm: one Ray cluster on the job's nodes, and failures of a node."""

import json
import os
from pathlib import Path

import pytest
from slurm_jobs import DRIVERS, SCRIPT, environment_with_ray, leftovers
from testbed import Testbed

pytestmark = pytest.mark.slurm

TWO = ("--nodes=2", "--cpus-per-task=2", "--mem=6G")
BOOT_TIMEOUT_S = 180


def test_one_ray_on_two_nodes_has_the_allocated_resources_and_ends_with_the_experiments_exit_code(
    slurm: Testbed, repository: Path, tmp_path: Path
) -> None:
    report = tmp_path / "report.json"
    (tmp_path / "data" / "cifar10").mkdir(parents=True)
    env = {"RAYKD_SCRATCH": str(tmp_path / "scratch"), "RAYKD_DATA": str(tmp_path / "data")}
    job_id = slurm.sbatch([*TWO, SCRIPT, str(DRIVERS / "reports_nodes.py"), str(report), "7"], repository, env)
    job = slurm.wait(job_id, BOOT_TIMEOUT_S)
    assert job.exit_code == 7, job.output
    assert "DerivedExitCode=0:0" in slurm.run(["scontrol", "show", "job", "--details", str(job_id)])
    assert "file locks" not in job.output and not list(repository.glob(".raykd-job-*"))
    logs = slurm.folder / f"slurm-{job_id}-ray-logs"
    assert {path.name for path in logs.iterdir()} == {"cn1.tar.gz", "cn2.tar.gz"}
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
        pytest.param(
            "echo 'waiting for a filesystem' >&2; sleep 120",
            "cn2 did not join within 40 s (RAYKD_START_TIMEOUT_S)",
            marks=pytest.mark.nightly,
        ),
    ],
    ids=["ends", "hangs"],
)
def test_a_node_that_does_not_join_fails_the_job_with_its_name_and_log(
    slurm: Testbed, repository: Path, tmp_path: Path, on_cn2: str, words: str
) -> None:
    env = environment_with_ray(tmp_path, f'if [[ $(hostname) == cn2 ]]; then {on_cn2}; fi; exec $REAL "$@"')
    experiment = str(DRIVERS / "waits_for_signal.py")
    job_id = slurm.sbatch([*TWO, SCRIPT, experiment], repository, env | {"RAYKD_START_TIMEOUT_S": "40"})
    job = slurm.wait(job_id, timeout_s=180)
    assert job.exit_code == 75, job.output
    assert words in job.output
    assert ("no space left on cn2" in job.output) or ("waiting for a filesystem" in job.output)
    assert leftovers(slurm) == []


@pytest.mark.nightly
def test_a_cancelled_job_leaves_nothing_on_any_node(slurm: Testbed, repository: Path) -> None:
    job_id = slurm.sbatch([*TWO, SCRIPT, str(DRIVERS / "waits_for_signal.py")], repository)
    slurm.wait_for_output(job_id, "waiting\n", BOOT_TIMEOUT_S)
    slurm.run(["scancel", str(job_id)])
    job = slurm.wait(job_id, timeout_s=60)
    assert job.state == "CANCELLED"
    assert leftovers(slurm) == []
