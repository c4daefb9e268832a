"""The step that detects Slurm's SIGTERM to a job's steps. A script replaces srun; no Slurm."""

import os
import time
from pathlib import Path

import pytest

from raykd.cluster.allocation import Node
from raykd.cluster.preemption import StepWatch, preempt_mode, save_time_s

NODE = Node("cn1", num_cpus=4, num_gpus=1, memory_bytes=None)
# sbatch's options leave these in a job's environment, and srun would read them as requests of the step: --mem=0 and a
# leftover SLURM_MEM_PER_CPU exclude each other, and the step ends immediately.
REQUESTS = {
    "SLURM_MEM_PER_CPU": "2000",
    "SLURM_GPUS_PER_TASK": "1",
    "SLURM_CPUS_PER_TASK": "4",
    "SRUN_CPUS_PER_TASK": "4",
    "SLURM_LABELIO": "1",
    "SLURM_STDINMODE": "none",
}


@pytest.fixture
def srun(tmp_path: Path) -> Path:
    """Make a script that writes its environment to the file `seen` and then runs `then.sh`."""
    program = tmp_path / "srun"
    program.write_text('#!/bin/sh\nenv >"$0.part"; mv "$0.part" "${0%/*}/seen"; . "${0%/*}/then.sh"\n')
    program.chmod(0o755)
    return program


def environment(srun: Path) -> dict[str, str]:
    return REQUESTS | {"PATH": f"{srun.parent}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}


def wait_for(path: Path) -> str:
    while not path.exists():
        time.sleep(0.01)
    return path.read_text()


def test_the_step_gets_the_job_id_and_no_request_of_the_job(srun: Path) -> None:
    (srun.parent / "then.sh").write_text("exec cat")
    with StepWatch(NODE, environment(srun)) as watch:
        names = {line.partition("=")[0] for line in wait_for(srun.parent / "seen").splitlines()}
        assert not watch.is_terminated()
    assert watch._step.returncode == 0, "it would be the DerivedExitCode of the job"
    assert "SLURM_JOB_ID" in names and not names & set(REQUESTS)


@pytest.mark.parametrize(("code", "is_terminated"), [(143, True), (1, False), (0, False)])
def test_only_a_step_ended_by_sigterm_is_a_preemption(srun: Path, code: int, is_terminated: bool) -> None:
    (srun.parent / "then.sh").write_text(f"exit {code}")
    with StepWatch(NODE, environment(srun)) as watch:
        watch._step.wait(20)
        assert watch.is_terminated() is is_terminated


PREEMPTED = "JobId=7 QOS=low JobState=RUNNING PreemptTime=2026-01-01T00:00:00 Partition=p"
BY_QOS = "PreemptType = preempt/qos\nPreemptMode = REQUEUE"
SCONTROL = """#!/bin/sh
case "$1 $2" in "show job") echo "{job}";; "show config") echo "{config}";; *) exit 1;; esac
"""


def answer(folder: Path, monkeypatch: pytest.MonkeyPatch, job: str, sacctmgr: str | None) -> None:
    """Replace scontrol by one that shows `job`, and sacctmgr by the shell script `sacctmgr`, or by none."""
    programs = {"scontrol": SCONTROL.format(job=job, config=BY_QOS)}
    programs |= {"sacctmgr": f"#!/bin/sh\n{sacctmgr}\n"} if sacctmgr else {}
    for name, text in programs.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


@pytest.mark.parametrize(
    ("sacctmgr", "mode"),
    [
        (None, "unknown"),
        ("echo 'sacctmgr: error: slurm_persist_conn_open_without_init: connection refused' >&2; exit 1", "unknown"),
        ("echo cancel", "CANCEL"),
        ("echo cluster", "REQUEUE"),
    ],
)
def test_a_job_that_is_preempted_by_qos_is_recognized_without_the_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sacctmgr: str | None, mode: str
) -> None:
    answer(tmp_path, monkeypatch, PREEMPTED, sacctmgr)
    assert preempt_mode("7") == mode
    assert save_time_s("7") == float("inf"), "Slurm sends SIGTERM again at the end of the grace time"


def test_a_job_that_is_not_preempted_has_no_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(tmp_path, monkeypatch, PREEMPTED.replace("2026-01-01T00:00:00", "None"), None)
    assert preempt_mode("7") == ""
