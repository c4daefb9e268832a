"""Ray's processes block the signals that reach a whole process group, and still end quickly with their command."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import pytest

from raykd.cluster.group_signals import GROUP_SIGNALS, blocked_in_children, quick_end

SLEEPS = "import time; print('ready', flush=True); time.sleep(60)"
STARTS_A_SLEEPER = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SLEEPS!r}])"


@pytest.fixture
def blocking() -> Iterator[subprocess.Popen]:
    """A child that blocks GROUP_SIGNALS and waits for a child of its own."""
    with blocked_in_children():
        child = subprocess.Popen([sys.executable, "-c", STARTS_A_SLEEPER], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "ready\n"
    yield child
    child.kill()
    child.wait()


@pytest.mark.parametrize("number", GROUP_SIGNALS, ids=lambda number: number.name)
def test_child_survives_a_signal_that_it_inherited_as_blocked(blocking: subprocess.Popen, number: int) -> None:
    blocking.send_signal(number)
    with pytest.raises(subprocess.TimeoutExpired):
        blocking.wait(0.2)


def test_this_process_blocks_the_signals_only_within_the_block() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with blocked_in_children():
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before | GROUP_SIGNALS
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


def test_quick_end_kills_a_child_that_blocks_sigterm_and_its_descendants(blocking: subprocess.Popen) -> None:
    (grandchild,) = psutil.Process(blocking.pid).children()
    with quick_end():
        blocking.terminate()
        assert blocking.wait(10) == -signal.SIGKILL
    with pytest.raises(psutil.NoSuchProcess):
        grandchild.wait(10)
        psutil.Process(grandchild.pid)


def test_quick_end_leaves_a_child_whose_sigterm_is_older(blocking: subprocess.Popen) -> None:
    blocking.terminate()
    with quick_end():
        time.sleep(0.2)
    assert blocking.poll() is None


def test_quick_end_leaves_children_that_got_no_sigterm(blocking: subprocess.Popen) -> None:
    with quick_end():
        os.kill(blocking.pid, signal.SIGHUP)
        time.sleep(0.2)
    assert blocking.poll() is None
