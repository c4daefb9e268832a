"""Ray's process on a node, and the reason for its end. No Slurm, no Ray."""

import os
import sys
import time
from pathlib import Path

import pytest

from raykd.cluster.ray_process import RayProcess, likely_reason


def step(program: str, path: Path, secret: str = "") -> RayProcess:
    return RayProcess("Ray on cn2", [sys.executable, "-c", program], os.environ, path / "log", secret)


def wait(started: RayProcess) -> None:
    while not started.has_ended():
        time.sleep(0.02)


def test_a_failure_has_the_node_the_exit_code_and_the_reason_in_the_log(tmp_path: Path) -> None:
    ended = step("import sys; print('the disk is on fire'); sys.exit(4)", tmp_path)
    wait(ended)
    assert "Ray on cn2 ended with exit code 4 after 0 s, early: the disk is on fire\n" in ended.failure("early")


def test_a_running_process_has_not_failed_and_ends_when_stopped(tmp_path: Path) -> None:
    started = step("import time; time.sleep(60)", tmp_path)
    assert started.failure("early") == ""
    started.stop()
    assert started.has_ended()


def test_the_secret_reaches_the_command_through_standard_input(tmp_path: Path) -> None:
    started = step(f"import sys; open({str(tmp_path / 'got')!r}, 'w').write(sys.stdin.read())", tmp_path, "5ecret")
    wait(started)
    assert (tmp_path / "got").read_text() == "5ecret"


def test_a_process_that_ends_before_reading_the_secret_reports_its_exit_code(tmp_path: Path) -> None:
    ended = step("import os; os.close(0); print('no')", tmp_path, "5ecret" * 100_000)
    wait(ended)
    assert "exit code 0" in ended.failure("early")


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["Traceback ...", "ValueError: port taken", "srun: error: cn1: task 0: Exited"], "ValueError: port taken"),
        (["srun: error: Unable to create step"], "srun: error: Unable to create step"),
        (
            [
                "2026-11-22 20:13:07,872\tERR scripts.py:1290 -- Some Ray subprocesses exited unexpectedly:",
                "2026-11-22 20:13:07,872\tERR scripts.py:1297 -- gcs_server [exit code=-9]",
                "2026-11-22 20:13:07,872\tERR scripts.py:1315 -- Remaining processes will be killed.",
            ],
            "Some Ray subprocesses exited unexpectedly: gcs_server [exit code=-9]",
        ),
        ([], "the log is empty"),
    ],
)
def test_the_reason_is_a_line_of_ray(lines: list[str], reason: str) -> None:
    assert likely_reason(lines) == reason
