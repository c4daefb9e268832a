"""The testbed: it starts the requested nodes, and leaves nothing behind however it ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from testbed import HERE, Testbed, missing

pytestmark = [pytest.mark.slurm, pytest.mark.skipif(bool(missing()), reason=missing())]


def traces(folder: Path) -> list[str]:
    """Return processes and mounts that contain the path of the testbed's folder."""
    commands = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    mounts = Path("/proc/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    return [line for line in commands + mounts if str(folder) in line]


def links() -> list[str]:
    return sorted(os.listdir("/sys/class/net"))  # noqa: PTH208


def test_two_nodes_run_one_step_and_nothing_is_left(tmp_path: Path) -> None:
    before = links()
    with Testbed.start(tmp_path, num_nodes=2) as slurm:
        names = slurm.run(["srun", "--nodes=2", "--gres=gpu:1", "bash", "-c", "echo $(hostname)"]).split()
        assert traces(tmp_path)
    assert sorted(names) == ["cn1", "cn2"]
    assert traces(tmp_path) == []
    assert links() == before


def test_the_testbed_ends_with_a_killed_caller(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib, time, testbed\n"
        "testbed.Testbed.start(pathlib.Path(sys.argv[1]))\n"
        "print('up', flush=True)\n"
        "time.sleep(60)\n"
    )
    caller = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], cwd=HERE, stdout=subprocess.PIPE, text=True
    )
    assert caller.stdout is not None
    assert caller.stdout.readline() == "up\n"
    caller.send_signal(signal.SIGKILL)
    caller.wait(5)
    deadline = time.monotonic() + 5
    while traces(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert traces(tmp_path) == []
