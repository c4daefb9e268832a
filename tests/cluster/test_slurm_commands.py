"""What raykd makes of Slurm's answers about a job, and of none. Programs of our own stand in for Slurm's here; the
service's tests ask a real one.
"""

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
def slurm_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Let `program` print a text, or errors and fail."""

    def say(program: str, text: str = "", errors: str = "") -> None:
        answer = tmp_path / f"{program}.txt"
        answer.write_text(errors or text)
        ending = " >&2; exit 1" if errors else ""
        (tmp_path / program).write_text(f"#!/bin/sh\ncat '{answer}'{ending}\n")
        (tmp_path / program).chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    return say


def test_paths_with_spaces_stay_whole(slurm_says) -> None:
    slurm_says("scontrol", SHOWN.format(state="RUNNING"))
    folder = Path("/home/ann/my raykd")
    assert running_job(7) == RunningJob(7, "cn1", folder, folder / "slurm-7.out")


@pytest.mark.parametrize("words", ["", " experiments/cnn_and_vit.py --results /tmp/x"])
def test_repository_is_the_scripts_where_the_job_was_sent_to_another_folder(slurm_says, tmp_path, words: str) -> None:
    """By sbatch --chdir=OUT; Slurm of some versions shows the script's arguments too."""
    (tmp_path / "slurm").mkdir()
    shown = SHOWN.format(state="RUNNING").replace("/slurm/ray_cluster.slurm", f"/slurm/ray_cluster.slurm{words}")
    slurm_says("scontrol", shown.replace("WorkDir=/home/ann/my raykd", f"WorkDir={tmp_path}"))
    assert running_job(7).folder == Path("/home/ann/my raykd")
    (tmp_path / "slurm/ray_cluster.slurm").write_text("")
    assert running_job(7).folder == tmp_path, "--chdir may name another copy of the repository"


def test_job_that_waits_has_no_ray_yet(slurm_says) -> None:
    slurm_says("scontrol", SHOWN.format(state="PENDING"))
    with pytest.raises(ConfigError, match=r"^job 7 is pending: its Ray is up only while the job is running$"):
        running_job(7)


def test_errors_of_several_lines_become_one(slurm_says) -> None:
    slurm_says("scontrol", errors="scontrol: error: lookup failed\nscontrol: fatal: no configuration\n")
    with pytest.raises(ConfigError, match=r"\(scontrol: fatal: no configuration\); run this on a machine") as raised:
        running_job(7)
    assert "\n" not in str(raised.value)


def test_machine_without_slurm_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="No such file or directory: 'squeue'"):
        only_job()


def test_the_one_job_that_runs_is_taken_and_of_several_none(slurm_says) -> None:
    slurm_says("squeue", "4711\n")
    assert only_job() == 4711
    slurm_says("squeue", "4711\n4712\n")
    with pytest.raises(ConfigError, match=r"several raykd jobs are running \(4711, 4712\); name one with --job"):
        only_job()
