"""What the keeper of a job's Ray does with those that are sent to it, with Ray's answers made up."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from raykd.cluster import serve as serve_module
from raykd.cluster.serve import Server, serve
from raykd.cluster.submissions import Submission
from raykd.errors import RaykdError


class Ray:
    """A list of submissions, who can be stopped, and what goes wrong."""

    def __init__(self) -> None:
        self.found: dict[str, Submission] = {}
        self.asked: list[str] = []
        self.cannot_be_asked: set[str] = set()
        self.looks = 0
        self.at_look: dict[int, Callable[[], None]] = {}
        self.silent = False

    def set(self, name: str, status: str, exit_code: int | None = None) -> None:
        self.found[name] = Submission(name, status, f"{name}.py", exit_code, len(self.found), None)

    def all(self) -> list[Submission]:
        self.looks += 1
        self.at_look.get(self.looks, lambda: None)()
        if self.silent:
            raise RaykdError("the request to the job's Ray failed: HTTP 500")
        return list(self.found.values())

    def stop(self, name: str) -> bool:
        self.asked.append(name)
        if name in self.cannot_be_asked:
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


def kept(ray: Ray, tmp_path: Path, stop: threading.Event | None = None) -> Server:
    """One that has come to its end, with `stop` set from the first."""
    made = Server(ray, f"{tmp_path}/slurm-7")  # type: ignore[arg-type]
    if stop is None:
        stop = threading.Event()
        stop.set()
    serve(made, stop)
    return made


def test_each_is_told_of_once_and_its_log_is_left(ray: Ray, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ray.set("a-1", "RUNNING")
    made = Server(ray, f"{tmp_path}/slurm-7")  # type: ignore[arg-type]
    made.report_changes()
    made.report_changes()
    ray.set("a-1", "FAILED", 3)
    made.report_changes()
    made.report_changes()
    log = tmp_path / "slurm-7-a-1.out"
    assert capsys.readouterr().out.splitlines() == [
        "raykd: a-1 submitted: a-1.py",
        f"raykd: a-1 failed with exit code 3; its output is in {log}",
    ]
    assert log.read_text() == "log of a-1"


def test_what_comes_or_begins_while_it_stops_is_stopped_too(ray: Ray, tmp_path: Path) -> None:
    ray.set("a-1", "PENDING")
    ray.cannot_be_asked = {"a-1"}
    ray.at_look = {3: lambda: ray.set("b-1", "RUNNING"), 5: ray.cannot_be_asked.clear}
    assert kept(ray, tmp_path).stopped == {"a-1", "b-1"}
    assert ray.asked.count("b-1") == 1


def test_what_ended_by_itself_was_not_stopped(ray: Ray, tmp_path: Path) -> None:
    ray.set("a-1", "SUCCEEDED", 0)
    assert kept(ray, tmp_path).stopped == set()


def test_dashboard_that_is_silent_for_a_while_ends_nothing(ray: Ray, tmp_path: Path) -> None:
    stop = threading.Event()

    def answer() -> None:
        ray.silent = False
        stop.set()

    ray.silent = True
    ray.set("a-1", "RUNNING")
    ray.at_look = {20: answer}
    assert kept(ray, tmp_path, stop).stopped == {"a-1"}


def test_one_bad_answer_at_the_warning_costs_nobody_the_stop(ray: Ray, tmp_path: Path) -> None:
    def speak() -> None:
        ray.silent = False

    ray.silent = True
    ray.set("a-1", "RUNNING")
    ray.at_look = {3: speak}
    assert kept(ray, tmp_path).stopped == {"a-1"}


def test_dashboard_that_stays_silent_is_an_error(ray: Ray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve_module, "PATIENCE_S", 0.05)
    ray.silent = True
    with pytest.raises(RaykdError, match="HTTP 500"):
        kept(ray, tmp_path, threading.Event())


def test_log_that_cannot_be_written_is_a_line(ray: Ray, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ray.set("a-1", "SUCCEEDED", 0)
    Server(ray, f"{tmp_path}/none/slurm-7").report_changes()  # type: ignore[arg-type]
    said = capsys.readouterr().out
    assert "a-1 succeeded with exit code 0; its output will be lost with the job: [Errno 2]" in said


@pytest.mark.parametrize(
    ("status", "exit_code", "code"),
    [("SUCCEEDED", 0, 0), ("FAILED", 3, 3), ("FAILED", -9, 137), ("FAILED", None, 1), ("STOPPED", None, 75)],
)
def test_end_of_an_experiment_is_an_exit_code(status: str, exit_code: int | None, code: int) -> None:
    assert Submission("a-1", status, "a.py", exit_code, 0.0, 1.0).code == code
