"""The thread that copies runs into trackers: nothing that a tracker does ends, delays or spoils a command."""

import threading
from pathlib import Path

import pytest
from fake_tracker import TEACHER, FakeTracker, family_in, folder_of, train

from raykd.errors import Interrupted
from raykd.store.locked_folder import lock_at
from raykd.trackers import tracking as module
from raykd.trackers.tracking import FOLDER, Tracking


@pytest.fixture
def tracker(monkeypatch: pytest.MonkeyPatch) -> FakeTracker:
    """The tracker that every command of the test uses."""
    made = FakeTracker()
    monkeypatch.setattr(module, "make_tracker", lambda name, folder: made)
    return made


def track(results: Path, lines: list[str], error: Exception | None = None) -> None:
    """Train the teacher unless it is trained, and track it, as a command does."""
    with Tracking(("tensorboard", "mlflow"), results, lines.append) as tracking:
        tracking.watch(family_in(results), lambda: [folder_of(TEACHER, results)])
        train(TEACHER, results)
        (results / "index.html").write_text("<p>")
        tracking.attach(family_in(results), lambda: ([results / "index.html"], {"teacher_accuracy": 0.5}))
        if error:
            raise error


def test_runs_the_report_and_its_values_are_there_when_the_command_ends(results: Path, tracker: FakeTracker) -> None:
    lines: list[str] = []
    track(results, lines)
    family = tracker.shown("small")
    assert len(tracker.shown(TEACHER.name).epochs) == 3 and tracker.is_closed
    assert (family.files, family.results, family.states) == (["index.html"], {"teacher_accuracy": 0.5}, ["done"])
    assert lines == ["tracker mlflow: nowhere"] and not [
        thread for thread in threading.enumerate() if thread.name == "raykd-trackers"
    ]


def test_epochs_are_copied_while_the_run_trains(tmp_path: Path, tracker: FakeTracker, monkeypatch) -> None:
    monkeypatch.setattr(module, "COPY_EVERY_S", 0.01)
    is_copied = threading.Event()
    tracker.log_results = lambda run_id, results: is_copied.set()  # type: ignore[method-assign]
    with Tracking(("mlflow",), tmp_path, print) as tracking:
        tracking.watch(family_in(tmp_path), lambda: [folder_of(TEACHER, tmp_path)])
        train(TEACHER, tmp_path)
        assert is_copied.wait(30)


def test_the_password_in_a_servers_address_is_not_logged(
    results: Path, tracker: FakeTracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ConnectionError("request to https://ada:secret@tracker.example/api failed")

    monkeypatch.setattr(FakeTracker, "open", fail)
    track(results, lines := [])
    (line,) = [line for line in lines if "fails" in line]
    assert "https://tracker.example/api" in line and "secret" not in line


@pytest.mark.parametrize("method", ["open", "log_epochs", "log_results", "attach", "end", "close"])
def test_a_tracker_that_raises_fails_nothing_and_is_logged_once(
    method: str, results: Path, tracker: FakeTracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "COPY_EVERY_S", 0.01)
    tracker.broken, lines = {method}, []
    track(results, lines)
    (line,) = [line for line in lines if "fails" in line]
    assert f"tracker mlflow fails (ConnectionError: {method} does not work); training continues" in line
    assert folder_of(TEACHER, results).status() == "done"


def test_a_tracker_that_does_not_answer_delays_the_end_by_its_limit_only(
    results: Path, tracker: FakeTracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CLOSE_S", 0.1)
    answer, lines = threading.Event(), []
    tracker.log_epochs = lambda run_id, epochs: answer.wait(60)  # type: ignore[method-assign]
    track(results, lines)
    answer.set()
    assert tracker.is_aborted
    assert lines == [
        "tracker mlflow fails (not finished within 0 s); training continues, and what is missing is added once it works"
    ]


def test_a_package_that_cannot_be_imported_fails_nothing(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mlflow", None)
    lines: list[str] = []
    track(results, lines)
    assert len(lines) == 1 and "tracker mlflow fails (ModuleNotFoundError" in lines[0]


def test_a_file_in_the_place_of_the_trackers_folder_fails_nothing(results: Path, tracker: FakeTracker) -> None:
    (results / FOLDER).write_text("not a folder")
    lines: list[str] = []
    track(results, lines)
    assert len(lines) == 1 and "is not a folder" in lines[0]


@pytest.mark.parametrize(("error", "state"), [(Interrupted("stop"), "interrupted"), (ValueError("x"), "failed")])
def test_the_family_ends_as_the_command_does(
    error: Exception, state: str, tmp_path: Path, tracker: FakeTracker
) -> None:
    with pytest.raises(type(error)):
        track(tmp_path, [], error)
    assert tracker.shown("small").states == [state]


def test_while_another_command_copies_nothing_is_copied_and_later_ones_copy_it(
    results: Path, tracker: FakeTracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOCK_WAIT_S", 0.05)
    lines: list[str] = []
    (results / FOLDER).mkdir()
    with lock_at(results / FOLDER / ".lock").acquire():
        track(results, lines)
    assert (lines, tracker.runs) == ([], {})
    track(results, lines)
    assert len(tracker.shown(TEACHER.name).epochs) == 3


def test_only_tensorboard_starts_no_thread_and_writes_nothing(tmp_path: Path) -> None:
    with Tracking(("tensorboard",), tmp_path, print):
        assert "raykd-trackers" not in {thread.name for thread in threading.enumerate()}
    assert list(tmp_path.iterdir()) == []
