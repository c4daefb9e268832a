"""The server of a job's Ray cluster: reports, stops and logs of experiments. A list replaces Ray."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from raykd.cluster import serve as serve_module
from raykd.cluster.serve import Server, serve
from raykd.cluster.submissions import Submission
from raykd.errors import RaykdError


class Ray:
    """Replaces Submissions: a list of experiments, those that cannot be stopped yet, and failures."""

    def __init__(self) -> None:
        self.submissions: dict[str, Submission] = {}
        self.stop_requests: list[str] = []
        self.not_started: set[str] = set()
        self.num_calls = 0
        self.at_call: dict[int, Callable[[], None]] = {}
        self.silent = False

    def set(self, name: str, status: str, exit_code: int | None = None) -> None:
        self.submissions[name] = Submission(name, status, f"{name}.py", exit_code, len(self.submissions), None)

    def all(self) -> list[Submission]:
        self.num_calls += 1
        self.at_call.get(self.num_calls, lambda: None)()
        if self.silent:
            raise RaykdError("the request to the job's Ray cluster failed: HTTP 500")
        return list(self.submissions.values())

    def stop(self, name: str) -> bool:
        self.stop_requests.append(name)
        if name in self.not_started:
            return False
        self.set(name, "STOPPED")
        return True

    def copy_log(self, name: str, target: Path) -> None:
        target.write_text(f"log of {name}")


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Ray:
    for name in ("POLL_S", "STOPPING_POLL_S"):
        monkeypatch.setattr(serve_module, name, 0.001)
    return Ray()


def served(ray: Ray, tmp_path: Path, stop: threading.Event | None = None) -> Server:
    """Serve until the end and return the server. stop: by default set from the beginning."""
    server = Server(ray, f"{tmp_path}/slurm-7")  # type: ignore[arg-type]
    if stop is None:
        stop = threading.Event()
        stop.set()
    serve(server, stop)
    return server


def test_each_experiment_is_reported_once_and_its_log_is_copied(
    ray: Ray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ray.set("a-1", "RUNNING")
    server = Server(ray, f"{tmp_path}/slurm-7")  # type: ignore[arg-type]
    server.report_changes()
    server.report_changes()
    ray.set("a-1", "FAILED", 3)
    server.report_changes()
    server.report_changes()
    log = tmp_path / "slurm-7-a-1.out"
    assert capsys.readouterr().out.splitlines() == [
        "raykd: a-1 submitted: a-1.py",
        f"raykd: a-1 failed with exit code 3; its output is in {log}",
    ]
    assert log.read_text() == "log of a-1"


def test_experiments_that_are_submitted_or_start_during_the_stop_are_stopped_too(ray: Ray, tmp_path: Path) -> None:
    ray.set("a-1", "PENDING")
    ray.not_started = {"a-1"}
    ray.at_call = {3: lambda: ray.set("b-1", "RUNNING"), 5: ray.not_started.clear}
    assert served(ray, tmp_path).stopped == {"a-1", "b-1"}
    assert ray.stop_requests.count("b-1") == 1


def test_an_experiment_that_ended_by_itself_was_not_stopped(ray: Ray, tmp_path: Path) -> None:
    ray.set("a-1", "SUCCEEDED", 0)
    assert served(ray, tmp_path).stopped == set()


def test_a_dashboard_that_is_silent_for_a_while_ends_nothing(ray: Ray, tmp_path: Path) -> None:
    stop = threading.Event()

    def answer() -> None:
        ray.silent = False
        stop.set()

    ray.silent = True
    ray.set("a-1", "RUNNING")
    ray.at_call = {20: answer}
    assert served(ray, tmp_path, stop).stopped == {"a-1"}


def test_experiments_are_stopped_despite_a_failed_request_at_the_warning(ray: Ray, tmp_path: Path) -> None:
    def answer() -> None:
        ray.silent = False

    ray.silent = True
    ray.set("a-1", "RUNNING")
    ray.at_call = {3: answer}
    assert served(ray, tmp_path).stopped == {"a-1"}


def test_a_dashboard_that_stays_silent_is_an_error(ray: Ray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve_module, "PATIENCE_S", 0.05)
    ray.silent = True
    with pytest.raises(RaykdError, match="HTTP 500"):
        served(ray, tmp_path, threading.Event())


def test_a_log_that_cannot_be_written_is_reported(ray: Ray, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ray.set("a-1", "SUCCEEDED", 0)
    Server(ray, f"{tmp_path}/none/slurm-7").report_changes()  # type: ignore[arg-type]
    output = capsys.readouterr().out
    assert "a-1 succeeded with exit code 0; its output will be lost with the job: [Errno 2]" in output


@pytest.mark.parametrize(
    ("status", "exit_code", "code"),
    [("SUCCEEDED", 0, 0), ("FAILED", 3, 3), ("FAILED", -9, 137), ("FAILED", None, 1), ("STOPPED", None, 75)],
)
def test_the_end_of_an_experiment_maps_to_an_exit_code(status: str, exit_code: int | None, code: int) -> None:
    assert Submission("a-1", status, "a.py", exit_code, 0.0, 1.0).code == code
