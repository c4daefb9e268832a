"""Requeueing with a script in the place of scontrol; test_requeue_on_slurm.py has a real Slurm."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from raykd.cluster.requeue import max_requeues
from raykd.errors import ConfigError

ROOT = Path(__file__).parents[2]
BUSY = "slurm_load_jobs error: Socket timed out on send/recv operation"
# Fails as often as there are lines in the file `failures`, with that line as its error.
SCONTROL = """#!/bin/sh
cd "${0%/*}"
echo "$@" >>calls
if [ -s failures ]; then head -n 1 failures >&2; sed -i 1d failures; exit 1; fi
case $1 in show) echo JobId=4711 Requeue=1;; requeue) kill -TERM $PPID;; esac
"""


# In a process with one thread, as a job's script: a SIGTERM that one thread blocks reaches the process through others.
REQUEUE = """
import sys
from pathlib import Path
from raykd.cluster import requeue
from raykd.cluster.allocation import Allocation, Node
requeue.LINGER_S = requeue.RETRY_S = 0
requeue.BUSY_S = float(sys.argv[2])
restart_count = int(sys.argv[4])
allocation = Allocation(4711, (Node("cn1", 1, 0, None),), Path(sys.argv[3]), restart_count, sys.argv[1])
resume = requeue.resume_command(allocation, ["digits.py"])
sys.exit(0 if requeue.requeue(allocation, resume, 100, "", print, may_be_cancelled=True) else 3)
"""


@pytest.fixture
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Replace scontrol by a script that logs its arguments and sends SIGTERM for a requeue. Return its folder."""
    (tmp_path / "scontrol").write_text(SCONTROL)
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path


def is_requeued(
    scontrol: Path, *failures: str, slurm_id: str = "4711", busy_s: float = 60, restarts: int = 0
) -> tuple[bool, str]:
    """Requeue a job whose first calls of scontrol fail with these errors. Return the result and the log."""
    (scontrol / "failures").write_text("".join(f"{failure}\n" for failure in failures))
    command = [sys.executable, "-c", REQUEUE, slurm_id, str(busy_s), str(scontrol), str(restarts)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode in (0, 3), done
    return done.returncode == 0, done.stdout


def calls(scontrol: Path) -> list[str]:
    return (scontrol / "calls").read_text().splitlines()


def test_a_job_is_requeued_by_the_id_that_names_it_alone(scontrol: Path) -> None:
    is_done, log = is_requeued(scontrol, slurm_id="4711_2")
    assert is_done and f"resume with: cd {scontrol} && sbatch slurm/ray_cluster.slurm digits.py" in log
    assert calls(scontrol) == ["show job --oneliner 4711_2", "requeue 4711_2"]


def test_a_job_is_requeued_as_often_as_the_limit_and_not_once_more(scontrol: Path) -> None:
    is_done, log = is_requeued(scontrol, restarts=99)
    assert is_done and "interrupted: requeueing job 4711, which resumes by itself" in log
    is_done, log = is_requeued(scontrol, restarts=100)
    assert not is_done and "not requeued: it was requeued 100 times (RAYKD_MAX_REQUEUES); to resume: " in log
    assert calls(scontrol).count("requeue 4711") == 1


@pytest.mark.parametrize(("text", "limit"), [("", 100), ("0", 0), ("7", 7)])
def test_raykd_max_requeues_limits_the_requeues(text: str, limit: int) -> None:
    assert max_requeues({"RAYKD_MAX_REQUEUES": text}) == limit
    assert max_requeues({}) == 100


@pytest.mark.parametrize("text", ["-1", "many", "1.5"])
def test_raykd_max_requeues_must_be_an_integer(text: str) -> None:
    with pytest.raises(ConfigError, match=f"^RAYKD_MAX_REQUEUES = '{text}': must be an integer; 0 disables"):
        max_requeues({"RAYKD_MAX_REQUEUES": text})


def test_a_busy_controller_is_asked_again(scontrol: Path) -> None:
    assert is_requeued(scontrol, BUSY, "Unable to contact slurm controller (connect failure)", BUSY)[0]
    assert len(calls(scontrol)) == 5


def test_a_refusal_is_final_and_the_command_that_resumes_is_logged(scontrol: Path) -> None:
    is_done, log = is_requeued(scontrol, "Access/permission denied")
    assert not is_done and len(calls(scontrol)) == 1
    assert f"not requeued: Access/permission denied; to resume: cd {scontrol} && sbatch slurm/" in log


def test_a_controller_that_stays_busy_is_reported(scontrol: Path) -> None:
    is_done, log = is_requeued(scontrol, *[BUSY] * 9, busy_s=0)
    assert not is_done and f"not requeued: {BUSY}; to resume: " in log
