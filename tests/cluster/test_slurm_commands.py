"""Parsing of Slurm's output about a job. Scripts replace Slurm's commands; test_serve_on_slurm.py has a real Slurm."""

from pathlib import Path

import pytest

from raykd.cluster.slurm_commands import RunningJob, only_job, running_job
from raykd.errors import ConfigError

SHOWN = (
    "JobId=7 JobName=raykd UserId=ann(1000) JobState={state} Reason=None BatchHost=cn1 NumNodes=1 "
    "TRES=cpu=2,mem=6G,node=1 Command=/home/ann/my raykd/slurm/ray_cluster.slurm WorkDir=/home/ann/my raykd "
    "StdErr=/home/ann/my raykd/slurm-7.out StdIn=/dev/null StdOut=/home/ann/my raykd/slurm-7.out Power= \n"
)


@pytest.fixture
def slurm_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Replace a program by one that prints a text, or errors and fails."""

    def replace(program: str, text: str = "", errors: str = "") -> None:
        output = tmp_path / f"{program}.txt"
        output.write_text(errors or text)
        ending = " >&2; exit 1" if errors else ""
        (tmp_path / program).write_text(f"#!/bin/sh\ncat '{output}'{ending}\n")
        (tmp_path / program).chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    return replace


def test_paths_with_spaces_stay_whole(slurm_prints) -> None:
    slurm_prints("scontrol", SHOWN.format(state="RUNNING"))
    folder = Path("/home/ann/my raykd")
    assert running_job(7) == RunningJob(7, "cn1", folder, folder / "slurm-7.out")


@pytest.mark.parametrize("arguments", ["", " experiments/cnn_and_vit.py --results /tmp/x"])
def test_the_repository_is_that_of_the_script_if_the_job_has_another_working_directory(
    slurm_prints, tmp_path, arguments: str
) -> None:
    """sbatch --chdir sets the working directory. Some versions of Slurm also show the script's arguments."""
    (tmp_path / "slurm").mkdir()
    shown = SHOWN.format(state="RUNNING").replace("/slurm/ray_cluster.slurm", f"/slurm/ray_cluster.slurm{arguments}")
    slurm_prints("scontrol", shown.replace("WorkDir=/home/ann/my raykd", f"WorkDir={tmp_path}"))
    assert running_job(7).folder == Path("/home/ann/my raykd")
    (tmp_path / "slurm/ray_cluster.slurm").write_text("")
    assert running_job(7).folder == tmp_path, "--chdir may name another copy of the repository"


def test_a_pending_job_has_no_ray(slurm_prints) -> None:
    slurm_prints("scontrol", SHOWN.format(state="PENDING"))
    with pytest.raises(ConfigError, match=r"^job 7 is pending: its Ray cluster is up only while the job is running$"):
        running_job(7)


def test_errors_of_several_lines_become_one(slurm_prints) -> None:
    slurm_prints("scontrol", errors="scontrol: error: lookup failed\nscontrol: fatal: no configuration\n")
    with pytest.raises(ConfigError, match=r"\(scontrol: fatal: no configuration\); run this on a machine") as raised:
        running_job(7)
    assert "\n" not in str(raised.value)


def test_a_machine_without_slurm_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="No such file or directory: 'squeue'"):
        only_job()


def test_the_only_running_job_is_selected_and_several_are_an_error(slurm_prints) -> None:
    script, other = "/home/ann/my raykd/slurm/ray_cluster.slurm", "/home/ann/jupyter.sh"
    slurm_prints("squeue", f"4710|{other}\n4711|{script}\n4712_1|{script}\n")
    assert only_job() == 4711
    slurm_prints("squeue", f"4711|{script}\n4712|{script} digits\n")
    with pytest.raises(ConfigError, match=r"several raykd jobs are running \(4711, 4712\); name one with --job"):
        only_job()
