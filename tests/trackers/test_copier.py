"""Run folders are copied into a tracker completely and once, even if a command is interrupted or the tracker fails."""

import json
from pathlib import Path

import pytest
from fake_tracker import BASELINE, STEPS, TEACHER, FakeTracker, family_in, folder_of, train

from raykd.spec.plan import Run
from raykd.store.run_folder import RunFolder
from raykd.trackers.copier import FILE, Copier, Parent, Watched
from raykd.trackers.run_facts import epochs_of
from raykd.trackers.tracker import State


def watched(results: Path, *runs: Run) -> list[Watched]:
    return [Watched(family_in(results), lambda: [folder_of(run, results) for run in runs])]


def copied(tracker: FakeTracker, results: Path, end: State = "done") -> None:
    """Copy as one command does."""
    copier = Copier(tracker)
    copier.copy(watched(results, TEACHER), end)
    copier.end_parents(end)


def test_a_finished_run_has_its_settings_epochs_and_test_metrics(results: Path) -> None:
    tracker = FakeTracker()
    copied(tracker, results)
    shown, folder = tracker.shown(TEACHER.name), folder_of(TEACHER, results)
    assert (shown.run.kind, shown.run.family, shown.run.group) == ("teacher", "small", "small")
    settings = shown.run.settings
    assert (settings["teacher.epochs"], settings["teacher.optimizer.lr"]) == ("3", "0.05")
    assert (settings["data.name"], settings["teacher.optimizer"]) == ("digits", "sgd")
    assert not any(path.startswith("recipe") for path in settings)
    rows = folder.history()
    assert [epoch.number for epoch in shown.epochs] == [row["epoch"] for row in rows] == [0, 1, 2]
    assert [epoch.values["top1/val"] for epoch in shown.epochs] == [row["val_top1"] for row in rows]
    assert [epoch.values["loss/ce"] for epoch in shown.epochs] == [row["ce"] for row in rows]
    assert shown.epochs[-1].values["top1/best_val"] == folder.require_record().best.val_top1
    assert shown.results["test/top1"] == json.loads(folder.test.read_text())["top1"]
    assert shown.states == ["done"]


def test_an_interrupted_run_continues_the_same_run_and_logs_each_epoch_once(tmp_path: Path) -> None:
    tracker = FakeTracker()
    train(TEACHER, tmp_path, stop_at=STEPS + 2)
    copied(tracker, tmp_path)
    shown = tracker.shown(TEACHER.name)
    assert ([epoch.number for epoch in shown.epochs], shown.states) == ([0], ["interrupted"])
    train(TEACHER, tmp_path)
    copied(tracker, tmp_path)
    assert ([epoch.number for epoch in shown.epochs], shown.states) == ([0, 1, 2], ["interrupted", "done"])
    assert len(tracker.runs) == 2, "the run and its family"


def test_a_run_stays_open_until_its_test_metrics_are_known(tmp_path: Path) -> None:
    tracker = FakeTracker()
    copier = Copier(tracker)
    train(BASELINE, tmp_path, evaluated=False)
    copier.copy(watched(tmp_path, BASELINE))
    shown = tracker.shown(BASELINE.name)
    assert len(shown.epochs) == 3 and shown.states == [] and "test/top1" not in shown.results
    train(BASELINE, tmp_path)
    copier.copy(watched(tmp_path, BASELINE))
    assert len(shown.epochs) == 3 and shown.states == ["done"] and "test/top1" in shown.results


def test_a_run_that_was_copied_is_not_opened_again(results: Path) -> None:
    tracker = FakeTracker()
    copied(tracker, results)
    tracker.broken = {"open", "log_epochs", "log_results", "end"}
    copied(tracker, results)


@pytest.mark.parametrize("method", ["open", "log_epochs", "log_results", "end"])
def test_what_a_failing_tracker_misses_is_copied_once_it_works(method: str, results: Path) -> None:
    tracker = FakeTracker()
    tracker.broken = {method}
    with pytest.raises(ConnectionError, match=method):
        copied(tracker, results)
    tracker.broken = set()
    copied(tracker, results)
    shown = tracker.shown(TEACHER.name)
    assert {epoch.number for epoch in shown.epochs} == {0, 1, 2} and "test/top1" in shown.results
    assert shown.states == ["done"]


def test_a_run_that_fails_keeps_no_other_from_being_copied(tmp_path: Path) -> None:
    tracker, real = FakeTracker(), FakeTracker.log_epochs
    for run in (TEACHER, BASELINE):
        train(run, tmp_path)

    def fail_for_the_teacher(run_id, epochs):
        if tracker.runs[run_id].run.name == TEACHER.name:
            raise ValueError("not this one")
        real(tracker, run_id, epochs)

    tracker.log_epochs = fail_for_the_teacher
    with pytest.raises(ValueError, match="not this one"):
        Copier(tracker).copy(watched(tmp_path, TEACHER, BASELINE))
    assert len(tracker.shown(BASELINE.name).epochs) == 3


def test_a_report_is_attached_again_only_when_it_has_changed(results: Path) -> None:
    """Also by a command that has no run to copy, and after one that failed before it attached the report."""
    tracker, page = FakeTracker(), results / "index.html"
    copied(tracker, results)
    for number, text in enumerate(("<p>", "<p>", "<p>new", "<p>new")):
        page.write_text(text)
        copier = Copier(tracker)
        copier.copy(watched(results, TEACHER), "done")
        copier.attach(family_in(results), [page], {"teacher_accuracy": 0.5})
        copier.end_parents("done")
        assert len(tracker.shown("small").files) == 1 + number // 2
    assert tracker.shown("small").states == ["done"] * 3 and len(tracker.runs) == 2


def test_another_store_receives_every_epoch_again(results: Path) -> None:
    first, second = FakeTracker(), FakeTracker()
    copied(first, results)
    second.store = "elsewhere"
    copied(second, results)
    assert len(second.shown(TEACHER.name).epochs) == 3


def test_a_run_that_was_deleted_in_the_tracker_is_created_again_with_every_epoch(tmp_path: Path) -> None:
    tracker = FakeTracker()
    train(TEACHER, tmp_path, stop_at=STEPS + 2)
    copied(tracker, tmp_path)
    tracker.runs.clear()
    train(TEACHER, tmp_path)
    copied(tracker, tmp_path)
    assert [epoch.number for epoch in tracker.shown(TEACHER.name).epochs] == [0, 1, 2]


def test_a_damaged_tracking_file_counts_as_missing(results: Path) -> None:
    (folder_of(TEACHER, results).path / FILE).write_text("{")
    tracker = FakeTracker()
    copied(tracker, results)
    assert len(tracker.shown(TEACHER.name).epochs) == 3


def test_trials_are_below_their_search_and_the_search_below_its_family(results: Path) -> None:
    space = {"search.space.method.alpha": "uniform"}
    search = Parent(results / "small" / "search", "small/search", "search", space, family_in(results))
    trial_folder = search.folder / "trials" / "0000"
    trial_folder.parent.mkdir(parents=True)
    folder_of(TEACHER, results).path.rename(trial_folder)
    (trial_folder / "test.json").unlink()
    tracker = FakeTracker()
    copier = Copier(tracker)
    copier.copy([Watched(search, lambda: [RunFolder(trial_folder)], are_trials=True)])
    (results / "index.html").write_text("<p>")
    copier.attach(search, [results / "index.html"], {"top1": 0.5})
    copier.end_parents("done")
    trial, parent, root = (tracker.shown(name) for name in ("trial 0000", "small/search", "small"))
    assert (trial.run.kind, trial.run.group, trial.states) == ("trial", "small/search", ["done"])
    assert tracker.runs[str(trial.parent)] is parent and tracker.runs[str(parent.parent)] is root
    assert root.parent is None and parent.run.settings == space
    assert (parent.files, parent.results) == (["index.html"], {"top1": 0.5})
    assert (parent.states, root.states) == (["done"], ["done"])


@pytest.mark.parametrize(("end", "state"), [("done", "done"), ("interrupted", "interrupted")])
def test_a_trial_that_is_not_done_when_its_search_ends_was_pruned(end: State, state: State, tmp_path: Path) -> None:
    train(TEACHER, tmp_path, stop_at=STEPS + 2)
    search = Parent(tmp_path / "small" / "search", "small/search", "search", {}, family_in(tmp_path))
    tracker = FakeTracker()
    trial = Watched(search, lambda: [folder_of(TEACHER, tmp_path)], are_trials=True)
    Copier(tracker).copy([trial], end)
    assert tracker.shown(f"trial {TEACHER.name}").states == [state]


def test_the_best_accuracy_of_a_run_that_keeps_its_last_epoch_is_that_of_each_epoch() -> None:
    rows = [
        {
            "epoch": epoch,
            "seconds": 1.0,
            "train_top1": 0.0,
            "val_top1": top1,
            "val_loss": 1.0,
            "lr": 0.1,
            "images_per_s": 1,
        }
        for epoch, top1 in enumerate((30.0, 20.0))
    ]
    shown = {keeps_last: epochs_of(rows, keeps_last)[-1].values["top1/best_val"] for keeps_last in (False, True)}
    assert shown == {False: 30.0, True: 20.0}
