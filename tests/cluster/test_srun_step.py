"""The step that Ray runs in: its exit code, and the end of everything that it has started. No Slurm, no Ray."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raykd.cluster.step import END_SIGNAL

STEP = [sys.executable, "-m", "raykd.cluster.step"]
# A process that has left its parent, session and process group, as daemons do.
DAEMON = "(setsid sleep 60 & echo $! >{file}); until [ -s {file} ]; do :; done; "


def is_running(process: int) -> bool:
    """A zombie is not; nor is a pid that nobody has."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(("end", "code"), [("exit 5", 5), ("kill -9 $$", 128 + 9)])
def test_daemons_end_with_the_command_and_its_exit_code_stays(tmp_path: Path, end: str, code: int) -> None:
    file = tmp_path / "pid"
    done = subprocess.run([*STEP, "bash", "-c", DAEMON.format(file=file) + end], timeout=20, check=False)
    assert done.returncode == code
    assert not is_running(int(file.read_text()))


@pytest.mark.parametrize("number", [signal.SIGTERM, END_SIGNAL])
def test_signal_ends_all_at_once_even_who_ignores_it(tmp_path: Path, number: signal.Signals) -> None:
    file = tmp_path / "pid"
    program = "trap '' TERM USR1; " + DAEMON.format(file=file) + f"touch {file}.ready; sleep 60"
    step = subprocess.Popen([*STEP, "bash", "-c", program])
    while not file.with_suffix(".ready").exists():
        time.sleep(0.02)
    step.send_signal(number)
    assert step.wait(5) == 128 + number
    assert not is_running(int(file.read_text()))
