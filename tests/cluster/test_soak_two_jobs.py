"""Two jobs started at the same moment on one node, again and again: `make soak`."""

import json
from pathlib import Path

import pytest
from slurm_jobs import DRIVERS, SCRIPT, leftovers
from testbed import Testbed

pytestmark = [pytest.mark.slurm, pytest.mark.soak, pytest.mark.timeout(1800)]

ROUNDS = 20
HALF = ("--nodelist=cn1", "--gres=gpu:1", "--cpus-per-task=2", "--mem=6G")


@pytest.mark.parametrize("number", range(ROUNDS))
def test_two_concurrent_jobs_on_one_node_each_have_a_gpu_and_succeed(
    slurm: Testbed, repository: Path, tmp_path: Path, number: int
) -> None:
    reports = [tmp_path / f"{job}.json" for job in "ab"]
    begin = ["--begin=now+2"]  # seconds: Slurm starts both in one round of its scheduler
    words = [[SCRIPT, str(DRIVERS / "reports_cluster.py"), str(report)] for report in reports]
    jobs = [slurm.sbatch([*HALF, *begin, *each], repository) for each in words]
    ended = [slurm.wait(job, timeout_s=90) for job in jobs]
    assert [job.exit_code for job in ended] == [0, 0], "\n".join(job.output for job in ended)
    found = [json.loads(report.read_text()) for report in reports]
    assert [report["resources"]["GPU"] for report in found] == [1, 1]
    assert len({report["visible_gpus"] for report in found}) == 2, "both jobs were given the same GPU"
    times = [slurm.job(job) for job in jobs]
    assert max(job["StartTime"] for job in times) < min(job["EndTime"] for job in times), "they did not meet"
    assert leftovers(slurm) == []
