"""Requests besides the script's #SBATCH lines, on a real Slurm: what the job gets, and what it prints."""

from pathlib import Path

import pytest
from slurm_jobs import SCRIPT
from testbed import Testbed

pytestmark = [pytest.mark.slurm, pytest.mark.nightly]

TIMEOUT_S = 180
SMALL = ("--cpus-per-task=1", "--mem=6G")


@pytest.fixture
def experiment(tmp_path: Path) -> str:
    path = tmp_path / "prints.py"
    path.write_text("print('ran')\n")
    return str(path)


def test_gpus_that_the_scripts_gres_line_overrides_are_a_warning(
    slurm: Testbed, repository: Path, experiment: str
) -> None:
    job_id = slurm.sbatch([*SMALL, "--gpus-per-node=2", SCRIPT, experiment], repository)
    job = slurm.wait(job_id, TIMEOUT_S)
    assert job.exit_code == 0 and "ran\n" in job.output, job.output
    assert "raykd: warning: 2 GPUs per node requested, 1 allocated: " in job.output
    assert "submit with --gres=gpu:2\n" in job.output


def test_a_total_of_gpus_on_two_nodes_starts_every_step(slurm: Testbed, repository: Path, experiment: str) -> None:
    """Each step has one node with one GPU, and would read SLURM_GPUS=2 as its request."""
    job_id = slurm.sbatch([*SMALL, "-N2", "--gpus=2", SCRIPT, experiment], repository)
    job = slurm.wait(job_id, TIMEOUT_S)
    assert job.exit_code == 0 and "ran\n" in job.output, job.output
    assert "cn1 (1 CPU, 1 GPU), cn2 (1 CPU, 1 GPU)" in job.output and "raykd: warning" not in job.output
