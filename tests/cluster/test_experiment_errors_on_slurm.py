"""Mistakes in an experiment submitted by sbatch: one line and an exit code, on a real Slurm."""

import pytest

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(400)]


def _submit(slurm, repository, results, *settings: str, timeout_s: float):
    words = ["--cpus-per-task=2", "slurm/ray_cluster.slurm", "experiments/digits.py", "--results", str(results)]
    words += [word for setting in settings for word in ("--set", setting)]
    return slurm.wait(slurm.sbatch(words, cwd=repository), timeout_s)


@pytest.mark.nightly
def test_a_gpu_that_torch_cannot_use_fails_the_job_and_is_never_replaced_by_the_cpu(slurm, repository, tmp_path):
    """The testbed's GPU is a file: Slurm and Ray count it, torch sees none."""
    job = _submit(slurm, repository, tmp_path, timeout_s=300)
    assert (job.state, job.exit_code) == ("FAILED", 1), job.output
    assert "cannot use the GPU that this run was assigned" in job.output and "--set workers.gpus=0" in job.output


@pytest.mark.nightly
def test_a_mistake_is_reported_in_one_line_and_by_the_jobs_exit_code(slurm, repository, tmp_path):
    job = _submit(slurm, repository, tmp_path, "method.alpha=2", timeout_s=300)
    assert (job.state, job.exit_code) == ("FAILED", 2), job.output
    assert "alpha = 2" in job.output and "Traceback" not in job.output
