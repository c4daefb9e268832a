"""Requeueing with a script in the place of scontrol; test_requeue_on_slurm.py has a real Slurm."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from raykd.cluster import requeue as module
from raykd.cluster.allocation import Allocation, Node
from raykd.cluster.requeue import requeue

BUSY = "slurm_load_jobs error: Socket timed out on send/recv operation"
# Fails as often as there are lines in the file `failures`, with that line as its error.
SCONTROL = """#!/bin/sh
cd "${0%/*}"
echo "$@" >>calls
if [ -s failures ]; then head -n 1 failures >&2; sed -i 1d failures; exit 1; fi
case $1 in show) echo JobId=4711 Requeue=1;; requeue) kill -TERM $PPID;; esac
"""


@pytest.fixture
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Replace scontrol by a script that logs its arguments and sends SIGTERM for a requeue. Return its folder."""
    (tmp_path / "scontrol").write_text(SCONTROL)
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for name in ("LINGER_S", "RETRY_S"):
        monkeypatch.setattr(module, name, 0)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    yield tmp_path
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def is_requeued(scontrol: Path, *failures: str, slurm_id: str = "4711") -> tuple[bool, str]:
    """Requeue a job whose first calls of scontrol fail with these errors. Return the result and the log."""
    (scontrol / "failures").write_text("".join(f"{failure}\n" for failure in failures))
    lines: list[str] = []
    allocation = Allocation(4711, (Node("cn1", 1, 0, None),), scontrol, 0, slurm_id)
    return requeue(allocation, ["digits.py"], 100, "", lines.append), "\n".join(lines)


def calls(scontrol: Path) -> list[str]:
    return (scontrol / "calls").read_text().splitlines()


def test_a_job_is_requeued_by_the_id_that_names_it_alone(scontrol: Path) -> None:
    assert is_requeued(scontrol, slurm_id="4711_2")[0]
    assert calls(scontrol) == ["show job --oneliner 4711_2", "requeue 4711_2"]


def test_a_busy_controller_is_asked_again(scontrol: Path) -> None:
    assert is_requeued(scontrol, BUSY, "Unable to contact slurm controller (connect failure)", BUSY)[0]
    assert len(calls(scontrol)) == 5


def test_a_refusal_is_final_and_the_command_that_resumes_is_logged(scontrol: Path) -> None:
    is_done, log = is_requeued(scontrol, "Access/permission denied")
    assert not is_done and len(calls(scontrol)) == 1
    assert f"not requeued: Access/permission denied; to resume: cd {scontrol} && sbatch slurm/" in log


def test_a_controller_that_stays_busy_is_reported(scontrol: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUSY_S", 0)
    is_done, log = is_requeued(scontrol, *[BUSY] * 9)
    assert not is_done and f"not requeued: {BUSY}; to resume: " in log
