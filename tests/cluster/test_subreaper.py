"""The subreaper of Ray's processes: its exit code, and the end of all its descendants. No Slurm, no Ray."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from raykd.cluster.subreaper import END_SIGNAL

STEP = [sys.executable, "-m", "raykd.cluster.subreaper"]
# A process that has left its parent, session and process group, as daemons do.
DAEMON = "(setsid sleep 60 & echo $! >{file}); until [ -s {file} ]; do :; done; "


def is_running(process: int) -> bool:
    """Return whether a process runs and is no zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize(("end", "code"), [("exit 5", 5), ("kill -9 $$", 128 + 9)])
def test_daemons_end_with_the_command_and_its_exit_code_is_kept(tmp_path: Path, end: str, code: int) -> None:
    file = tmp_path / "pid"
    done = subprocess.run([*STEP, "bash", "-c", DAEMON.format(file=file) + end], timeout=20, check=False)
    assert done.returncode == code
    assert not is_running(int(file.read_text()))


def test_the_end_signal_immediately_ends_all_processes_even_those_that_ignore_it(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    program = "trap '' TERM USR1; " + DAEMON.format(file=file) + f"touch {file}.ready; sleep 60"
    step = subprocess.Popen([*STEP, "bash", "-c", program])
    while not file.with_suffix(".ready").exists():
        time.sleep(0.02)
    step.send_signal(END_SIGNAL)
    assert step.wait(5) == 128 + END_SIGNAL
    assert not is_running(int(file.read_text()))


def ray(folder: Path) -> list[str]:
    """Return a command that leaves a raylet and a dashboard behind, as `ray start` does; each writes its pid."""
    dashboard = folder / "dashboard.py"
    dashboard.write_text(
        f"import os, time; print(os.getpid(), file=open('{folder}/dashboard.py.pids', 'a'), flush=True)\n"
    )
    dashboard.write_text(dashboard.read_text() + "time.sleep(60)\n")
    raylet = f"bash -c 'echo $$ >>{folder}/raylet.pids; exec -a /ray/raylet sleep 60'"
    commands = [f"setsid {raylet} &", f"setsid {sys.executable} -u {dashboard} &"]
    commands += [f"until [ -s {folder}/{name}.pids ]; do :; done;" for name in ("raylet", "dashboard.py")]
    return [*STEP, "bash", "-c", " ".join([*commands, f"touch {folder}/up"])]


def pids(folder: Path, name: str) -> list[int]:
    path = folder / f"{name}.pids"
    return [int(word) for word in path.read_text().split()] if path.exists() else []


def wait_until(is_so: Callable[[], object]) -> None:
    while not is_so():
        time.sleep(0.02)


@pytest.mark.nightly
def test_sigterm_from_slurm_leaves_ray_running(tmp_path: Path) -> None:
    step = subprocess.Popen(ray(tmp_path))
    wait_until((tmp_path / "up").exists)
    (raylet,) = pids(tmp_path, "raylet")
    for process in (step.pid, raylet):  # Slurm sends it to every process of the step
        os.kill(process, signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        step.wait(2)
    assert is_running(raylet)
    step.send_signal(END_SIGNAL)
    step.wait(5)
    assert not is_running(raylet)


def test_a_head_that_lost_its_gcs_while_it_started_ends_the_subreaper(tmp_path: Path) -> None:
    """On a busy node `ray start` continues for a minute after Ray is up; the driver may run already."""
    step = subprocess.Popen([*ray(tmp_path), "start", "--head"], stdout=subprocess.PIPE, text=True)
    output, _ = step.communicate(timeout=20)
    assert step.returncode == 1 and "exited unexpectedly: gcs_server" in output
    assert not is_running(pids(tmp_path, "raylet")[0])


def test_a_lost_raylet_ends_the_subreaper_and_is_named(tmp_path: Path) -> None:
    step = subprocess.Popen(ray(tmp_path), stdout=subprocess.PIPE, text=True)
    wait_until((tmp_path / "up").exists)
    time.sleep(1)  # until the step knows the processes
    os.kill(pids(tmp_path, "raylet")[0], signal.SIGKILL)
    output, _ = step.communicate(timeout=10)
    assert (step.returncode, output) == (1, "Some Ray subprocesses exited unexpectedly: raylet [exit code=-9]\n")
    assert not is_running(pids(tmp_path, "dashboard.py")[0])


@pytest.mark.nightly
def test_a_killed_dashboard_is_started_again_and_ray_keeps_running(tmp_path: Path) -> None:
    step = subprocess.Popen(ray(tmp_path), stdout=subprocess.PIPE, text=True)
    wait_until((tmp_path / "up").exists)
    time.sleep(1)
    os.kill(pids(tmp_path, "dashboard.py")[0], signal.SIGKILL)
    wait_until(lambda: len(pids(tmp_path, "dashboard.py")) == 2)
    assert is_running(pids(tmp_path, "dashboard.py")[1]) and is_running(pids(tmp_path, "raylet")[0])
    step.send_signal(END_SIGNAL)
    output, _ = step.communicate(timeout=10)
    assert output == "raykd: Ray's dashboard.py [exit code=-9] ended and is started again; training continues\n"
    assert not is_running(pids(tmp_path, "dashboard.py")[1])


def test_an_orphan_of_the_dashboard_is_not_started_again(tmp_path: Path) -> None:
    file, command = tmp_path / "orphan.pids", ray(tmp_path)
    code = f"import os, time; print(os.getpid(), file=open('{file}', 'a'), flush=True); time.sleep(1)"
    command[-1] = f'setsid {sys.executable} -c "{code}" & until [ -s {file} ]; do :; done; {command[-1]}'
    step = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    wait_until((tmp_path / "up").exists)
    wait_until(lambda: not is_running(pids(tmp_path, "orphan")[0]))
    time.sleep(0.5)  # until the step would have started it again
    step.send_signal(END_SIGNAL)
    output, _ = step.communicate(timeout=10)
    assert output == "" and len(pids(tmp_path, "orphan")) == 1


def test_a_slow_start_of_ray_is_awaited(tmp_path: Path) -> None:
    """`ray start` gives up after 30 s, but leaves the raylet running."""
    command = ray(tmp_path)
    step = subprocess.Popen([*command[:-1], command[-1] + "; exit 1"], stdout=subprocess.PIPE, text=True)
    wait_until((tmp_path / "up").exists)
    with pytest.raises(subprocess.TimeoutExpired):
        step.wait(2)
    assert is_running(pids(tmp_path, "raylet")[0])
    step.send_signal(END_SIGNAL)
    assert "gave up after 0 s while Ray was still starting" in step.communicate(timeout=10)[0]


def test_a_failing_start_is_repeated_while_there_is_time(tmp_path: Path) -> None:
    program = f"echo x >>{tmp_path}/tries; [ $(wc -l <{tmp_path}/tries) = 2 ] || exit 3; {ray(tmp_path)[-1]}"
    step = subprocess.Popen([*STEP, "--timeout=60", "bash", "-c", program])
    wait_until((tmp_path / "up").exists)
    with pytest.raises(subprocess.TimeoutExpired):
        step.wait(1)
    step.send_signal(END_SIGNAL)
    assert step.wait(5) == 128 + END_SIGNAL


def test_a_start_that_fails_quickly_twice_fails(tmp_path: Path) -> None:
    command = [*STEP, "--timeout=60", "bash", "-c", f"echo x >>{tmp_path}/tries; exit 3"]
    assert subprocess.run(command, timeout=20, check=False).returncode == 3
    assert (tmp_path / "tries").read_text() == "x\n" * 2
