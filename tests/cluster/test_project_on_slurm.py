"""A project that `raykd init` made, on a real Slurm: jobs use the installed raykd and run experiments by name."""

from pathlib import Path

import pytest
from slurm_jobs import SCRIPT, leftovers
from testbed import Testbed

from raykd.cli import parser

pytestmark = pytest.mark.slurm

SMALL = ("--cpus-per-task=2", "--mem=6G")
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


def test_an_unknown_name_fails_the_job_immediately_with_one_line(slurm: Testbed, tmp_path: Path) -> None:
    assert parser.entry(["init", str(tmp_path)]) == 0
    job = slurm.wait(slurm.sbatch([*SMALL, SCRIPT, "digitz"], tmp_path), timeout_s=60)
    assert job.exit_code == 2
    assert job.output.startswith("raykd: unknown experiment 'digitz': known are ") and job.output.count("\n") == 1
    assert "did you mean 'digits'?" in job.output
