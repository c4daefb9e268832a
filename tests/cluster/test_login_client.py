"""Commands for a running job on the login node: the environment of their step, and ctrl-C. A script replaces srun."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SHOWN = "JobId=7 JobState=RUNNING BatchHost=cn1 Command=/r/slurm/ray_cluster.slurm WorkDir=/r StdOut=/r/7.out Power= "
FOLLOWING = (
    "raykd: no longer following; the experiments of job 7 keep running: 'python -m raykd status --job 7' lists them, "
    "'logs --job 7 -f' follows the last, 'stop --job 7' stops it\n"
)
LEFTOVERS = {
    "RAY_ADDRESS": "http://10.0.0.9:8265",
    "RAY_JOB_HEADERS": "{}",
    "RAY_NAMESPACE": "other",
    "SLURM_JOB_ID": "6",
    "SLURM_GPUS": "4",
    "SLURM_MEM_PER_CPU": "9000",
    "SRUN_CPUS_PER_TASK": "3",
}


@pytest.fixture
def command(tmp_path: Path, repository: Path):
    """Start `raykd ARGUMENTS` in a new process group, as a shell does; srun runs the shell lines `srun`."""
    started: list[subprocess.Popen[str]] = []

    def start(srun: str, *arguments: str) -> subprocess.Popen[str]:
        for name, lines in {"scontrol": f"echo '{SHOWN}'", "srun": srun}.items():
            (tmp_path / name).write_text(f"#!/bin/bash\n{lines}\n")
            (tmp_path / name).chmod(0o755)
        environ = dict(os.environ) | LEFTOVERS | {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_CONF": "/etc/s.conf"}
        line = [sys.executable, "-m", "raykd", *arguments]
        process = subprocess.Popen(
            line, cwd=repository, env=environ, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_the_step_inherits_nothing_of_another_ray_or_job(command, tmp_path: Path) -> None:
    process = command(f"env >{tmp_path}/environment", "status", "--job", "7")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    lines = (tmp_path / "environment").read_text().splitlines()
    environment = dict(line.split("=", 1) for line in lines if "=" in line)
    assert not set(LEFTOVERS) & set(environment)
    assert environment["SLURM_CONF"] == "/etc/s.conf"


@pytest.mark.parametrize(
    ("environment", "words"),
    [("RAYKD_PYTHON=(python 'my image')", ["my image", "-m"]), ("# of an earlier version", ["-m"])],
)
def test_the_step_runs_the_python_of_the_jobs_environment(
    environment: str, words: list[str], command, tmp_path: Path
) -> None:
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm/environment.sh").write_text(environment)
    (tmp_path / "python").write_text(f'#!/bin/bash\nprintf "%s\\n" "$@" >{tmp_path}/words\n')
    (tmp_path / "python").chmod(0o755)
    process = command(
        f'while [[ $1 != bash ]]; do shift; done; cd {tmp_path}; exec "$@"', "logs", "--job", "7", "a name"
    )
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    *seen, job_id, name, arguments = (tmp_path / "words").read_text().splitlines()
    assert (seen, job_id, name) == ([*words, "raykd.cluster.head_client"], "7", "logs")
    assert json.loads(arguments)["name"] == "a name"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["submit", "--job", "7", "-f", "x.py"], FOLLOWING),
        (["logs", "--job", "7", "-f"], FOLLOWING),
        (["status", "--job", "7"], "raykd: status was interrupted; job 7 keeps running\n"),
    ],
)
def test_ctrl_c_ends_the_command_and_not_the_experiment(
    command, tmp_path: Path, arguments: list[str], message: str
) -> None:
    traps = f"trap 'touch {tmp_path}/interrupted' INT; trap 'touch {tmp_path}/ended; exit 143' TERM"
    process = command(f"{traps}; touch {tmp_path}/began; while :; do sleep 0.1; done", *arguments)
    until = time.monotonic() + 60
    while not (tmp_path / "began").exists() and time.monotonic() < until:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (128 + signal.SIGINT, message)
    assert (tmp_path / "ended").exists() and not (tmp_path / "interrupted").exists(), "srun would print further lines"
