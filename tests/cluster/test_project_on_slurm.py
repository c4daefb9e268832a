"""A project that `raykd init` made, on a real Slurm: jobs use the installed raykd and run experiments by name."""

import subprocess
import sys
from pathlib import Path

import pytest
from slurm_jobs import SCRIPT, leftovers
from testbed import Testbed

from raykd.cli import parser
from raykd.store.run_folder import RunFolder

pytestmark = pytest.mark.slurm

SMALL = ("--cpus-per-task=2", "--mem=6G")
NET = """
from mylib.pool import mean
from torch import nn


class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.head = nn.Linear(3, num_classes)

    def forward(self, x):
        return self.head(mean(x))
"""
REPORTS = "import raykd, sys\nprint('argument', sys.argv[1:], 'raykd of', raykd.__file__)\n"


@pytest.mark.nightly
def test_jobs_of_a_project_run_experiments_by_name(slurm: Testbed, tmp_path: Path) -> None:
    """The first is a file of the project, the second is bundled: the project's copy of it was removed."""
    assert parser.entry(["init", str(tmp_path)]) == 0
    (tmp_path / "experiments" / "reports.py").write_text(REPORTS)
    (tmp_path / "experiments" / "digits.py").unlink()
    results = tmp_path / "r"
    commands = (["reports", "a  b"], ["digits", "--plan", "--results", str(results)])
    job_ids = [slurm.sbatch([*SMALL, SCRIPT, *command], tmp_path) for command in commands]
    reports, digits = (slurm.wait(job_id, timeout_s=180) for job_id in job_ids)
    assert (reports.exit_code, digits.exit_code) == (0, 0), reports.output + digits.output
    assert "argument ['a  b'] raykd of /" in reports.output
    assert f"raykd of {tmp_path}" not in reports.output
    assert digits.output.count("not started") == 11
    assert leftovers(slurm) == []


@pytest.mark.nightly
def test_a_network_with_local_imports_trains_in_a_job_under_the_name_of_its_plan(
    slurm: Testbed, tmp_path: Path
) -> None:
    """A job puts the folder of the submission on PYTHONPATH, and its package `mylib` must not count as installed."""
    assert parser.entry(["init", str(tmp_path)]) == 0
    (tmp_path / "mylib").mkdir()
    (tmp_path / "mylib" / "__init__.py").touch()
    (tmp_path / "mylib" / "net.py").write_text(NET)
    (tmp_path / "mylib" / "pool.py").write_text("def mean(x):\n    return x.mean((2, 3))\n")
    words = [
        "digits",
        "--set=student.model=mylib/net.py:Net",
        "--set=seeds=0",
        "--set=student.epochs=1",
        "--set=workers.gpus=0",
    ]
    words += ["--stage=baseline", f"--results={tmp_path / 'r'}"]
    plan = subprocess.run(
        [sys.executable, "-m", "raykd", "run", *words, "--plan"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    job_id = slurm.sbatch([*SMALL, SCRIPT, *words], tmp_path)
    job = slurm.wait(job_id, timeout_s=180)
    assert job.exit_code == 0, job.output
    (run,) = (tmp_path / "r" / "digits").glob("baseline-*")
    assert run.name in plan.stdout
    assert len([*run.glob("code/*/imports/mylib/*.py")]) == 2
    assert RunFolder(run).require_record().writer.endswith(f" in Slurm job {job_id}")


def test_an_unknown_name_fails_the_job_immediately_with_one_line(slurm: Testbed, tmp_path: Path) -> None:
    assert parser.entry(["init", str(tmp_path)]) == 0
    job = slurm.wait(slurm.sbatch([*SMALL, SCRIPT, "digitz"], tmp_path), timeout_s=60)
    assert job.exit_code == 2
    assert job.output.startswith("raykd: unknown experiment 'digitz': known are ") and job.output.count("\n") == 1
    assert "did you mean 'digits'?" in job.output
