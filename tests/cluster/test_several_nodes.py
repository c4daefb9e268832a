"""sbatch -N 2 slurm/ray_cluster.slurm on a real Slurm: one Ray over the job's nodes, and what happens to it."""

import json
from pathlib import Path

import pytest
from slurm_jobs import DRIVERS, SCRIPT, leftovers
from testbed import Testbed

pytestmark = pytest.mark.slurm

TWO = ("--nodes=2", "--cpus-per-task=2", "--mem=6G")
BOOT_TIMEOUT_S = 90


def test_one_ray_over_two_nodes_with_what_slurm_gave_on_each(slurm: Testbed, repository: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    job_id = slurm.sbatch([*TWO, SCRIPT, str(DRIVERS / "reports_nodes.py"), str(report)], repository)
    job = slurm.wait(job_id, BOOT_TIMEOUT_S)
    assert job.exit_code == 0, job.output
    nodes = json.loads(report.read_text())
    assert {node["host"]: (node["CPU"], node["GPU"]) for node in nodes} == {"cn1": (2, 1), "cn2": (2, 1)}
    assert all(node["memory"] + node["object_store_memory"] == 6 * 1024**3 for node in nodes)
    assert {node["folder_mode"] for node in nodes} == {"0o700"}
    assert {node["token_mode"] for node in nodes} == {"0o600"}
    assert len({node["token_path"] for node in nodes}) == 2
    assert "raykd: 1 of 2 nodes after " in job.output and "; waiting for cn2" in job.output
    assert leftovers(slurm) == []
