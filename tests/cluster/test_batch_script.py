"""slurm/ray_cluster.slurm and site.sh in bash only, in a repository whose boot.py prints its arguments."""

import os
import shlex
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
    """Make a repository with the real scripts, a boot.py that prints, and a virtual environment."""
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


def run(
    copy: Path, *arguments: str, before: str = "", chdir: Path | None = None, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run the script as Slurm does: with SLURM_SUBMIT_DIR in an almost empty environment.

    chdir: sbatch's --chdir, by default the directory of sbatch.
    """
    script = 'exec bash "$0" "$@"'
    environ = {"PATH": os.environ["PATH"], "HOME": str(copy / "home"), "SLURM_SUBMIT_DIR": str(copy)} | env
    command = ["bash", "-c", before + script, str(copy / "slurm/ray_cluster.slurm"), *arguments]
    folder = chdir or environ["SLURM_SUBMIT_DIR"] or copy
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=20, check=False)


def test_arguments_reach_boot_as_they_are(copy: Path) -> None:
    arguments = ["it's $(touch pwned).py", "a  b", "", ";", '"', "--"]
    done = run(copy, *arguments)
    assert done.returncode == 0, done.stderr
    assert str(["--", *arguments]) in done.stdout


def test_bash_without_epochrealtime_starts_the_job(copy: Path) -> None:
    """bash 4.4 of Enterprise Linux 8 has no EPOCHREALTIME."""
    (copy / "raykd/cluster/boot.py").write_text(
        "import os, time; print(time.time() - float(os.environ['RAYKD_JOB_START']))"
    )
    (copy / "older.sh").write_text("unset EPOCHREALTIME\n")
    done = run(copy, BASH_ENV=str(copy / "older.sh"))
    assert done.returncode == 0, done.stderr
    assert 0 <= float(done.stdout.split()[-1]) < 3600


def test_the_repositorys_environment_is_the_fallback_and_is_reported(copy: Path) -> None:
    done = run(copy)
    assert done.stdout.startswith(f"raykd: no virtual environment at {copy}/home/.venvs/edl; using {copy}/.venv\n")
    assert f"{copy}/.venv /tmp" in done.stdout


def test_the_users_environment_has_priority(copy: Path) -> None:
    user_venv = make_venv(copy / "home/.venvs/edl")
    assert run(copy).stdout == f"['--'] {user_venv} /tmp\n"


def test_an_environment_set_by_the_user_must_exist(copy: Path) -> None:
    done = run(copy, RAYKD_VENV="/nowhere")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("raykd: no Python at /nowhere/bin/python; ")


def test_modules_are_loaded_if_the_command_exists(copy: Path) -> None:
    done = run(copy, before=MODULE.format(action=LOADS))
    assert done.returncode == 0, done.stderr
    assert "module load Python/3.11.3-GCCcore-12.3.0\n" in done.stdout


@pytest.mark.parametrize("variable", ["MODULESHOME", "LMOD_PKG"])
def test_modules_are_loaded_if_the_login_shell_is_not_bash(copy: Path, variable: str) -> None:
    """zsh, tcsh and fish export no function to bash; nor does sbatch --export=NONE."""
    (copy / "init").mkdir()
    (copy / "init/bash").write_text(MODULE.format(action=LOADS))
    done = run(copy, **{variable: str(copy)})
    assert done.returncode == 0, done.stderr
    assert "module load Python/3.11.3-GCCcore-12.3.0\n" in done.stdout


@pytest.mark.parametrize("action", ["return 1", "return 0"])  # old Tcl modules return 0 after a failure
def test_a_module_that_does_not_load_ends_the_job(copy: Path, action: str) -> None:
    done = run(copy, before=MODULE.format(action=action))
    assert done.returncode == 2
    assert "Python/3.11.3-GCCcore-12.3.0" in done.stderr.splitlines()[0]
    assert "['--']" not in done.stdout


def test_an_environment_whose_python_the_node_lacks_is_named_in_one_line(copy: Path) -> None:
    (copy / "home/.venvs/edl/bin").mkdir(parents=True)
    (copy / "home/.venvs/edl/bin/python").symlink_to("/apps/python/bin/python3")
    done = run(copy, RAYKD_VENV=f"{copy}/home/.venvs/edl")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "/bin/python is a link to /apps/python/bin/python3, which " in done.stderr


def test_a_python_without_the_library_of_its_module_is_named_in_one_line(copy: Path) -> None:
    reason = "error while loading shared libraries: libpython3.11.so.1.0: cannot open shared object file"
    (copy / ".venv/bin/python").write_text(f"#!/bin/sh\necho 'python: {reason}' >&2\nexit 127\n")
    done = run(copy)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert reason in done.stderr and "RAYKD_MODULES in slurm/site.sh" in done.stderr


def test_submitting_from_another_directory_is_refused(copy: Path) -> None:
    done = run(copy, SLURM_SUBMIT_DIR="/")
    assert done.returncode == 2
    remedy = "cd to the folder that has slurm/ and submit again"
    assert done.stderr == f"raykd: submitted from /, which has no slurm/environment.sh: {remedy}\n"


def test_a_script_that_is_run_by_hand_prints_how_to_submit(copy: Path) -> None:
    done = run(copy, SLURM_SUBMIT_DIR="")
    assert done.returncode == 2
    assert done.stderr.startswith("raykd: this is a batch script; submit it: sbatch slurm/ray_cluster.slurm ")


@pytest.fixture
def checkout(repository: Path, tmp_path: Path) -> Path:
    """Make a repository whose submit scripts print the sbatch commands with --dry-run."""
    shutil.copytree(repository / "slurm", tmp_path / "slurm")
    (tmp_path / "raykd").symlink_to(repository / "raykd")
    make_venv(tmp_path / ".venv")
    return tmp_path


def dry_run(checkout: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Print the sbatch commands of all jobs on stderr, one per line."""
    command = ["bash", str(checkout / "slurm/submit_experiments.sh"), "--dry-run", *arguments]
    environ = {"PATH": os.environ["PATH"], "HOME": str(checkout / "home")} | env
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=20, check=False)


def jobs_of(done: subprocess.CompletedProcess[str]) -> dict[str, list[str]]:
    """Return the arguments of sbatch by the job's name."""
    assert done.returncode == 0, done.stderr
    jobs = {}
    for line in done.stderr.splitlines():
        arguments = shlex.split(line)
        (name,) = [argument.partition("=")[2] for argument in arguments if argument.startswith("--job-name=")]
        jobs[name] = arguments
    return jobs


@pytest.mark.parametrize("arguments", [["--results", "/far away"], ["--results=x", "--results=/far away"]])
def test_the_report_job_reads_where_the_other_jobs_write(checkout: Path, arguments: list[str]) -> None:
    done = dry_run(checkout, "--", *arguments)
    wrapped = jobs_of(done)["raykd-report"][-1]
    assert wrapped.rstrip().endswith("--results=/far\\ away")
    assert "it writes /far away/report/index.html" in done.stdout


@pytest.mark.parametrize(
    ("script", "words"),
    [
        pytest.param("submit_experiments.sh", ["--", "--set", "student.epoch=3"], marks=pytest.mark.nightly),
        ("submit_best_gpu.sh", ["--gres=gpu:a100:1", "experiments/distill_cnn.py", "--set", "student.epoch=3"]),
    ],
)
def test_a_typing_mistake_is_reported_before_anything_is_submitted(
    checkout: Path, tmp_path: Path, script: str, words: list[str]
) -> None:
    (tmp_path / "experiments").symlink_to(tmp_path / "raykd" / "bundled" / "experiments")
    (tmp_path / "programs").mkdir()
    (tmp_path / "programs" / "sbatch").write_text(f"#!/bin/sh\ntouch {tmp_path}/submitted; echo 7\n")
    (tmp_path / "programs" / "sbatch").chmod(0o755)
    command = ["bash", str(checkout / "slurm" / script), *words]
    environ = {"PATH": f"{tmp_path}/programs:{os.environ['PATH']}", "HOME": str(checkout / "home")}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2 and "did you mean 'epochs'?" in done.stderr, done.stderr
    assert not (tmp_path / "submitted").exists()


def test_the_report_job_gets_no_gpu_option(checkout: Path) -> None:
    options = ["--gpus-per-node", "h100:2", "--cpus-per-gpu=4", "--mem-per-gpu=8G", "-N2", "--exclusive", "-p", "big"]
    jobs = jobs_of(dry_run(checkout, *options, "-A", "me"))
    expected = ["--exclusive", "-N2", "-p", "big", "-A", "me", "--gres=gpu:h100:2", "--cpus-per-task=8", "--mem=16384M"]
    assert sorted(jobs["cnn-teacher"][3:-7]) == sorted(expected)
    report = jobs["raykd-report"]
    assert report[3:7] == ["-p", "big", "-A", "me"]
    assert not [word for word in report if "gpu" in word or "gres" in word or word == "--exclusive"]


def test_an_option_that_cannot_be_translated_ends_the_submission_before_the_first_job(checkout: Path) -> None:
    done = dry_run(checkout, "--gpus=3", "--nodes=2")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("raykd: --gpus=3: 3 GPUs cannot be divided among 2 nodes; request --gres=gpu:N")


@pytest.mark.parametrize("version", ["CUDA/12.1.1", "CUDA/12.1.1/gcc"])
def test_a_module_without_a_version_may_load_as_the_sites_default(copy: Path, version: str) -> None:
    name_modules(copy, "CUDA")
    done = run(copy, before=MODULE.format(action=f"export LOADEDMODULES={version}"))
    assert done.returncode == 0, done.stderr


def test_an_alias_of_a_module_may_load_under_another_name(copy: Path) -> None:
    name_modules(copy, "newest-cuda")
    loaded = MODULE.format(action="export LOADEDMODULES=GCC/12:CUDA/12.1.1")
    assert run(copy, before=loaded, LOADEDMODULES="GCC/12").returncode == 0


def test_the_status_of_a_modern_module_system_is_trusted(copy: Path) -> None:
    """An alias of a loaded module does not change LOADEDMODULES."""
    name_modules(copy, "newest-cuda")

    def code(action: str) -> int:
        module = MODULE.format(action=action)
        return run(copy, before=module, LOADEDMODULES="CUDA/12.1.1", LMOD_CMD="/lmod").returncode

    assert (code("return 0"), code("return 1")) == (0, 2)


def test_another_version_of_a_module_is_not_accepted(copy: Path) -> None:
    name_modules(copy, "CUDA/12.1.1")
    done = run(copy, before=MODULE.format(action="return 0"), LOADEDMODULES="CUDA/11.0")
    assert done.returncode == 2 and "module CUDA/12.1.1 is not loaded" in done.stderr


def test_the_module_function_may_read_unset_variables_and_run_failing_commands(copy: Path) -> None:
    action = f"echo $UNSET_BY_THE_SITE; false; false | true; {LOADS}"
    done = run(copy, before=MODULE.format(action=action))
    assert done.returncode == 0, done.stderr


def test_the_site_file_may_read_unset_variables_and_the_scripts_stay_strict(copy: Path) -> None:
    with (copy / "slurm/site.sh").open("a") as file:
        file.write("\necho $UNSET_BY_THE_SITE\nfalse\n")
    with (copy / "slurm/environment.sh").open("a") as file:
        file.write("\necho $- $(shopt -po pipefail)\n")
    done = run(copy)
    assert done.returncode == 0, done.stderr
    strict = next(line for line in done.stdout.splitlines() if line.endswith("set -o pipefail"))
    assert {"e", "u"} <= set(strict.split()[0])


def test_a_site_file_that_is_not_valid_bash_is_named(copy: Path) -> None:
    (copy / "slurm/site.sh").write_text("RAYKD_MODULES=(CUDA\n")
    done = run(copy)
    assert done.returncode == 2 and "raykd: slurm/site.sh is not valid bash" in done.stderr


def test_packages_in_the_home_folder_do_not_replace_those_of_the_environment(copy: Path) -> None:
    (copy / "raykd/cluster/boot.py").write_text("import site; print(site.ENABLE_USER_SITE)\n")
    (copy / "home").mkdir()
    assert run(copy).stdout.endswith("False\n")


def test_variables_of_another_python_installation_are_unset(copy: Path) -> None:
    done = run(copy, PYTHONHOME="/nowhere", PYTHONPLATLIBDIR="lib32", PYTHONSAFEPATH="1")
    assert done.returncode == 0, done.stderr
    assert "['--']" in done.stdout


def test_the_repository_may_be_the_directory_of_chdir(copy: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """sbatch --chdir=/home/raykd /home/raykd/slurm/ray_cluster.slurm, from the home directory."""
    home = tmp_path_factory.mktemp("home")
    (copy / "raykd/cluster/boot.py").write_text("import os; print(os.getcwd(), os.environ['SLURM_SUBMIT_DIR'])\n")
    assert run(copy, chdir=copy, SLURM_SUBMIT_DIR=str(home)).stdout.endswith(f"{copy} {copy}\n")
    assert run(copy, chdir=home).stdout.endswith(f"{copy} {copy}\n"), "--chdir may be meant for the output only"


def name_modules(copy: Path, *names: str) -> None:
    """Set RAYKD_MODULES in the site's file."""
    with (copy / "slurm/site.sh").open("a") as file:
        file.write(f"\nRAYKD_MODULES=({' '.join(names)})\n")
