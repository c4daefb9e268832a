"""slurm/ray_cluster.slurm and site.sh by bash alone, in a repository whose boot prints what it is given."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BOOT = "import os, sys; print(sys.argv[1:], os.environ['VIRTUAL_ENV'], os.environ['RAYKD_TMP'])\n"
MODULE = """module() {{ echo "module $*"; {action}; }}; export -f module; """
LOADS = "LOADEDMODULES=${LOADEDMODULES:-}:$2; export LOADEDMODULES"


@pytest.fixture
def copy(repository: Path, tmp_path: Path) -> Path:
    """A repository with the real scripts, a boot that reports, and a virtual environment."""
    shutil.copytree(repository / "slurm", tmp_path / "slurm")
    (tmp_path / "raykd/cluster").mkdir(parents=True)
    (tmp_path / "raykd/cluster/boot.py").write_text(BOOT)
    make_venv(tmp_path / ".venv")
    return tmp_path


def make_venv(path: Path) -> Path:
    (path / "bin").mkdir(parents=True)
    python = path / "bin/python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return path


def run(copy: Path, *words: str, before: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    """As Slurm would: another directory's copy of the script, SLURM_SUBMIT_DIR, an empty environment."""
    script = 'exec bash "$0" "$@"'
    environ = {"PATH": os.environ["PATH"], "HOME": str(copy / "home"), "SLURM_SUBMIT_DIR": str(copy)} | env
    command = ["bash", "-c", before + script, str(copy / "slurm/ray_cluster.slurm"), *words]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=20, check=False)


def test_arguments_reach_boot_as_they_are(copy: Path) -> None:
    words = ["it's $(touch pwned).py", "a  b", "", ";", '"', "--"]
    done = run(copy, *words)
    assert done.returncode == 0, done.stderr
    assert str(["--", *words]) in done.stdout


def test_repositorys_environment_is_the_fallback_and_says_so(copy: Path) -> None:
    done = run(copy)
    assert done.stdout.startswith(f"raykd: no virtual environment at {copy}/home/.venvs/edl; using {copy}/.venv\n")
    assert f"{copy}/.venv /tmp" in done.stdout


def test_users_environment_comes_first(copy: Path) -> None:
    own = make_venv(copy / "home/.venvs/edl")
    assert run(copy).stdout == f"['--'] {own} /tmp\n"


def test_named_environment_must_exist(copy: Path) -> None:
    done = run(copy, RAYKD_VENV="/nowhere")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("raykd: no Python at /nowhere/bin/python; ")


def test_modules_are_loaded_where_the_command_exists(copy: Path) -> None:
    done = run(copy, before=MODULE.format(action=LOADS))
    assert done.returncode == 0, done.stderr
    assert "module load Python/3.11.3-GCCcore-12.3.0\nmodule load CUDA/12.1.1\n" in done.stdout


@pytest.mark.parametrize("action", ["return 1", "return 0"])  # Tcl modules of old return 0 all the same
def test_module_that_does_not_load_ends_the_job(copy: Path, action: str) -> None:
    done = run(copy, before=MODULE.format(action=action))
    assert done.returncode == 2
    assert "Python/3.11.3-GCCcore-12.3.0" in done.stderr.splitlines()[0]
    assert "['--']" not in done.stdout


def test_other_directory_is_refused(copy: Path) -> None:
    done = run(copy, SLURM_SUBMIT_DIR="/")
    assert done.returncode == 2
    assert done.stderr == "raykd: submitted from /, which is not the repository: cd to its root and submit again\n"


def test_script_run_by_hand_says_how_to_submit(copy: Path) -> None:
    done = run(copy, SLURM_SUBMIT_DIR="")
    assert done.returncode == 2
    assert done.stderr.startswith("raykd: this is a batch script: sbatch slurm/ray_cluster.slurm ")


def test_scratch_is_what_the_job_and_never_what_the_login_node_calls_tmpdir(repository: Path) -> None:
    """The submit scripts source site.sh too, and sbatch hands what they export on to the job."""

    def scratch(**env: str) -> str:
        command = ["bash", "-c", "source slurm/site.sh; printenv RAYKD_SCRATCH || echo not set"]
        environ = {"PATH": os.environ["PATH"], "HOME": "/root", "TMPDIR": "/scratch/me"} | env
        return subprocess.run(command, cwd=repository, env=environ, capture_output=True, text=True, check=True).stdout

    assert scratch() == "not set\n"
    assert scratch(SLURM_JOB_ID="7") == "/scratch/me\n"
    assert scratch(SLURM_JOB_ID="7", RAYKD_SCRATCH="") == "\n", "what a person exports wins"


@pytest.mark.parametrize("words", [["--results", "/far/away"], ["--results=/far/away"]])
def test_report_of_the_graph_of_jobs_reads_where_the_others_write(copy: Path, words: list[str]) -> None:
    command = ["bash", str(copy / "slurm/submit_lab.sh"), "--dry-run", "--", *words]
    environ = {"PATH": os.environ["PATH"], "HOME": str(copy / "home")}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=20, check=True)
    report = next(line for line in done.stderr.splitlines() if "--job-name=raykd-report" in line)
    assert "/far/away" in report
