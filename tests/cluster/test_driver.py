"""The driver's exit code, signals that are forwarded to it, and the loss of the head. No Slurm, no Ray."""

import errno
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from raykd.cluster import boot, driver
from raykd.cluster.driver import Signals, exit_code, run_driver
from raykd.cluster.private_ray import private_folder
from raykd.cluster.submissions import experiment_command
from raykd.errors import ConfigError, Interrupted, RaykdError, RayNotStarted
from raykd.spec.bundled import EXPERIMENTS

WAITS = "import time; time.sleep(300)"
SAVES = (
    "import signal, sys, time; signal.signal({number}, lambda *_: sys.exit(3)); open({ready!r}, 'w'); time.sleep(300)"
)


def run(program: str, tmp_path: Path, signals: Signals, head_failure: str = "") -> int:
    command = [sys.executable, "-c", program]
    code = run_driver(command, dict(os.environ), tmp_path, signals, lambda: head_failure)
    return exit_code(code, was_interrupted=bool(signals.received))


def send_soon(*numbers: signal.Signals) -> None:
    """Send signals to this process after the driver has set its handlers."""
    for count, number in enumerate(numbers, start=1):
        threading.Timer(0.5 * count, os.kill, (os.getpid(), number)).start()


def send_when(path: Path, number: signal.Signals) -> None:
    """Send a signal to this process once the file `path` exists, which a driver makes after setting its handler."""

    def send() -> None:
        while not path.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    threading.Thread(target=send, daemon=True).start()


def saves(ready: Path, number: signal.Signals = signal.SIGUSR2) -> str:
    """Return a driver that makes the file `ready`, and ends with exit code 3 at a signal."""
    return SAVES.format(number=int(number), ready=str(ready))


@pytest.mark.parametrize(("program", "code"), [("pass", 0), ("import sys; sys.exit(7)", 7), ("1 / 0", 1)])
def test_the_exit_code_is_that_of_the_driver(tmp_path: Path, program: str, code: int) -> None:
    with Signals() as signals:
        assert run(program, tmp_path, signals) == code


def test_a_driver_killed_by_another_process_is_not_interrupted(tmp_path: Path) -> None:
    with Signals() as signals:
        assert run("import os; os.kill(os.getpid(), 9)", tmp_path, signals) == 128 + 9


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_driver_that_saves_on_a_signal_keeps_its_exit_code(tmp_path: Path, number: signal.Signals) -> None:
    with Signals() as signals:
        send_when(tmp_path / "ready", number)
        assert run(saves(tmp_path / "ready", number), tmp_path, signals) == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_driver_that_the_signal_kills_is_interrupted(tmp_path: Path, number: signal.Signals) -> None:
    with Signals() as signals:
        send_soon(number)
        assert run(WAITS, tmp_path, signals) == Interrupted.exit_code


def test_a_driver_that_ignores_sigterm_is_killed_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "TERM_GRACE_S", 0.3)
    started = time.monotonic()
    with Signals() as signals:
        send_soon(signal.SIGTERM)
        program = f"import signal; signal.signal({int(signal.SIGTERM)}, signal.SIG_IGN); {WAITS}"
        assert run(program, tmp_path, signals) == Interrupted.exit_code
    assert time.monotonic() - started < 60


def test_a_lost_head_ends_the_driver_with_the_reason(tmp_path: Path) -> None:
    started = time.monotonic()
    with Signals() as signals, pytest.raises(RaykdError, match="the head is gone"):
        run(WAITS, tmp_path, signals, head_failure="the head is gone")
    assert time.monotonic() - started < 60


def test_a_signal_while_ray_starts_interrupts_the_job() -> None:
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGUSR2)
        with pytest.raises(Interrupted, match="interrupted by SIGUSR2 while Ray was starting"):
            signals.check()


def test_a_warning_to_the_steps_reaches_the_driver_as_sigusr2(tmp_path: Path) -> None:
    with Signals() as signals:
        signals.is_warned = (tmp_path / "ready").exists
        assert run(saves(tmp_path / "ready"), tmp_path, signals) == 3
        assert signals.has_been_warned


def test_a_job_submitted_with_sigusr1_as_its_warning_saves(tmp_path: Path) -> None:
    with Signals() as signals:
        send_when(tmp_path / "ready", signal.SIGUSR1)
        assert run(saves(tmp_path / "ready"), tmp_path, signals) == 3
        assert signals.received == [signal.SIGUSR2]


def test_a_repeated_warning_is_forwarded_once(tmp_path: Path) -> None:
    """A second SIGUSR2 would end a driver that is still saving; Slurm also sends it before a grace time ends."""
    with Signals() as signals:
        for number in (signal.SIGUSR2, signal.SIGUSR2, signal.SIGTERM):
            os.kill(os.getpid(), number)
        first = signals.new_signals()
        for number in (signal.SIGUSR2, signal.SIGTERM):
            os.kill(os.getpid(), number)
        assert (first, signals.new_signals()) == ([signal.SIGUSR2, signal.SIGTERM], [signal.SIGTERM])


def test_the_driver_has_the_save_time_that_slurm_grants(tmp_path: Path) -> None:
    slow = "import signal, sys, time\ndef save(*_):\n    time.sleep(1)\n    sys.exit(75)\n"
    slow += f"signal.signal({int(signal.SIGTERM)}, save)\nopen({str(tmp_path / 'ready')!r}, 'w').close()\n"
    command = [sys.executable, "-c", slow + "time.sleep(30)"]
    for time_s, code in ((0.1, -signal.SIGKILL), (20.0, 75)):
        with Signals() as signals:
            (tmp_path / "ready").unlink(missing_ok=True)
            send_when(tmp_path / "ready", signal.SIGTERM)
            end = run_driver(command, dict(os.environ), tmp_path, signals, lambda: "", lambda time_s=time_s: time_s)
        assert end == code


def test_arguments_are_not_read_by_a_shell(tmp_path: Path) -> None:
    experiment = tmp_path / "it's $(touch x); `y`.py"
    experiment.touch()
    arguments = [str(experiment), "a b", "'", "$(id)", "--"]
    assert experiment_command(arguments, tmp_path) == [sys.executable, *arguments]


def test_a_job_packs_a_data_set_on_its_nodes(tmp_path: Path) -> None:
    command = experiment_command(["pack", "imagenet", "--resize", "256"], tmp_path)
    assert command == [sys.executable, "-m", "raykd", "pack", "imagenet", "--resize", "256"]


def test_a_missing_experiment_is_named_with_the_command_to_submit(tmp_path: Path) -> None:
    message = "^experiment file 'nothing.py' does not exist in .*sbatch slurm/ray_cluster.slurm"
    with pytest.raises(ConfigError, match=message):
        experiment_command(["nothing.py"], tmp_path)


def test_boot_outside_a_job_prints_how_to_submit(capsys: pytest.CaptureFixture[str]) -> None:
    assert boot.main(["--", "experiments/digits.py"], {}) == ConfigError.exit_code
    assert capsys.readouterr().err.startswith("raykd: SLURM_JOB_ID is not set: ")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EAGAIN])  # the last: ulimit -u
def test_an_error_of_the_machine_ends_boot_in_one_line(capsys, monkeypatch, number: int) -> None:
    def fails(*_: object) -> int:
        raise OSError(number, os.strerror(number), "/tmp/rk-1000-7/nodes.jsonl")

    monkeypatch.setattr(boot, "_boot", fails)
    assert boot.main(["--", "experiments/digits.py"], {}) == RayNotStarted.exit_code
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1 and os.strerror(number) in errors and "submit again to resume" in errors


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ENOENT])
def test_a_private_folder_on_a_full_or_broken_disk_is_no_error_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "mkdir", fails)
    error = ConfigError if number == errno.ENOENT else RayNotStarted
    with pytest.raises(error, match="set RAYKD_TMP to a short local folder"), private_folder(tmp_path / "rk", ""):
        pass


def test_a_full_disk_under_the_jobs_log_ends_nothing() -> None:
    """Python writes a line to the disk immediately, as in a job; a buffered line would fail at the end."""
    program = (
        "import sys; from raykd.cluster import boot, serve; from raykd.errors import RayNotStarted\n"
        "boot.JobLog({}).write('a'); boot._print_error(RayNotStarted('b')); serve._print('c')\n"
        "open(sys.argv[1], 'w').write('done')"
    )
    with Path("/dev/full").open("w") as full, tempfile.NamedTemporaryFile() as file:
        command = [sys.executable, "-u", "-c", program, file.name]
        assert subprocess.run(command, stdout=full, stderr=full, timeout=30, check=False).returncode == 0
        assert file.read() == b"done"


def test_boot_imports_neither_ray_nor_torch() -> None:
    program = "import sys, raykd.cluster.boot; sys.exit(bool({'ray', 'torch'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", program], timeout=30, check=True)


def test_a_name_stands_for_the_projects_experiment_or_the_bundled_one(tmp_path: Path) -> None:
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "mine.py").touch()
    assert experiment_command(["mine", "--plan"], tmp_path) == [sys.executable, "experiments/mine.py", "--plan"]
    assert experiment_command(["digits"], tmp_path) == [sys.executable, str(EXPERIMENTS / "digits.py")]
    with pytest.raises(ConfigError, match="unknown experiment 'digitz'"):
        experiment_command(["digitz"], tmp_path)
