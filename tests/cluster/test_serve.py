"""The server of a job's Ray cluster: it reports experiments, copies their logs and stops them. No Ray is started."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from raykd.cluster import serve as serve_module
from raykd.cluster.serve import Server, serve
from raykd.cluster.submissions import Submission
from raykd.errors import RaykdError


class FakeSubmissions:
    """The methods of Submissions that the server calls, on a dict of experiments in memory.

    not_started: names of experiments that cannot be stopped yet. at_call: actions at the n-th request for all
    experiments, n from 1. requests_fail: whether such requests raise RaykdError, after the action.
    """

    def __init__(self) -> None:
        self.experiments: dict[str, Submission] = {}
        self.stop_requests: list[str] = []
        self.not_started: set[str] = set()
        self.num_calls = 0
        self.at_call: dict[int, Callable[[], None]] = {}
        self.requests_fail = False

    def set(self, name: str, status: str, exit_code: int | None = None) -> None:
        self.experiments[name] = Submission(name, status, f"{name}.py", exit_code, len(self.experiments), None)

    def all(self) -> list[Submission]:
        self.num_calls += 1
        self.at_call.get(self.num_calls, lambda: None)()
        if self.requests_fail:
            raise RaykdError("the request to the job's Ray cluster failed: HTTP 500")
        return list(self.experiments.values())

    def stop(self, name: str) -> bool:
        self.stop_requests.append(name)
        if name in self.not_started:
            return False
        self.set(name, "STOPPED")
        return True

    def copy_log(self, name: str, target: Path) -> None:
        target.write_text(f"log of {name}")


@pytest.fixture
def submissions(monkeypatch: pytest.MonkeyPatch) -> FakeSubmissions:
    for name in ("POLL_S", "STOPPING_POLL_S"):
        monkeypatch.setattr(serve_module, name, 0.001)
    return FakeSubmissions()


def server_of(submissions: FakeSubmissions, folder: Path) -> Server:
    return Server(submissions, f"{folder}/slurm-7")  # type: ignore[arg-type]


def serve_to_the_end(submissions: FakeSubmissions, folder: Path, stop: threading.Event | None = None) -> Server:
    """Serve until all experiments have ended, and return the server. stop: None for one that is set already."""
    server = server_of(submissions, folder)
    if stop is None:
        stop = threading.Event()
        stop.set()
    serve(server, stop)
    return server


def test_each_experiment_is_reported_once_and_its_log_is_copied(
    submissions: FakeSubmissions, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    submissions.set("a-1", "RUNNING")
    server = server_of(submissions, tmp_path)
    server.report_changes()
    server.report_changes()
    submissions.set("a-1", "FAILED", 3)
    server.report_changes()
    server.report_changes()
    log = tmp_path / "slurm-7-a-1.out"
    assert capsys.readouterr().out.splitlines() == [
        "raykd: a-1 submitted: a-1.py",
        f"raykd: a-1 failed with exit code 3; its output is in {log}",
    ]
    assert log.read_text() == "log of a-1"


def test_experiments_that_are_submitted_or_start_during_the_stop_are_stopped_too(
    submissions: FakeSubmissions, tmp_path: Path
) -> None:
    submissions.set("a-1", "PENDING")
    submissions.not_started = {"a-1"}
    submissions.at_call = {3: lambda: submissions.set("b-1", "RUNNING"), 5: submissions.not_started.clear}
    assert serve_to_the_end(submissions, tmp_path).stopped == {"a-1", "b-1"}
    assert submissions.stop_requests.count("b-1") == 1


def test_an_experiment_that_ended_by_itself_was_not_stopped(submissions: FakeSubmissions, tmp_path: Path) -> None:
    submissions.set("a-1", "SUCCEEDED", 0)
    assert serve_to_the_end(submissions, tmp_path).stopped == set()
    assert submissions.stop_requests == []


def test_experiments_keep_running_while_requests_fail(submissions: FakeSubmissions, tmp_path: Path) -> None:
    stop, stopped_early = threading.Event(), []

    def recover_and_stop() -> None:
        stopped_early.extend(submissions.stop_requests)
        submissions.requests_fail = False
        stop.set()

    submissions.requests_fail = True
    submissions.set("a-1", "RUNNING")
    submissions.at_call = {20: recover_and_stop}
    assert serve_to_the_end(submissions, tmp_path, stop).stopped == {"a-1"}
    assert stopped_early == [] and submissions.num_calls >= 20


def test_experiments_are_stopped_after_requests_that_failed_during_the_stop(
    submissions: FakeSubmissions, tmp_path: Path
) -> None:
    def recover() -> None:
        submissions.requests_fail = False

    submissions.requests_fail = True
    submissions.set("a-1", "RUNNING")
    submissions.at_call = {3: recover}
    assert serve_to_the_end(submissions, tmp_path).stopped == {"a-1"}


@pytest.mark.parametrize(
    ("is_stopping", "limit", "other_limit"),
    [(False, "PATIENCE_S", "STOPPING_PATIENCE_S"), (True, "STOPPING_PATIENCE_S", "PATIENCE_S")],
    ids=["serving", "stopping"],
)
def test_requests_that_fail_for_longer_than_the_limit_are_an_error(
    submissions: FakeSubmissions,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_stopping: bool,
    limit: str,
    other_limit: str,
) -> None:
    monkeypatch.setattr(serve_module, limit, 0.05)
    monkeypatch.setattr(serve_module, other_limit, 3600.0)
    stop = threading.Event()
    if is_stopping:
        stop.set()
    submissions.requests_fail = True
    with pytest.raises(RaykdError, match="HTTP 500"):
        serve_to_the_end(submissions, tmp_path, stop)
    assert submissions.num_calls > 1, "the first failure was an error"


def test_requests_are_retried_for_a_shorter_time_during_the_stop() -> None:
    """Slurm kills the job soon after its warning."""
    assert serve_module.STOPPING_PATIENCE_S < serve_module.PATIENCE_S


def test_a_log_that_cannot_be_written_is_reported(
    submissions: FakeSubmissions, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    submissions.set("a-1", "SUCCEEDED", 0)
    server_of(submissions, tmp_path / "missing").report_changes()
    output = capsys.readouterr().out
    assert "a-1 succeeded with exit code 0; its output will be lost with the job: [Errno 2]" in output
