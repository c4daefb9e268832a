"""Early stopping: after `patience` epochs without a new best validation top-1, also of a run that was interrupted."""

from pathlib import Path
from typing import Any

import pytest
from nightly import nightly_except
from resume_cases import outcome
from small_runs import digits, recipe, run_of, train

from raykd.errors import Interrupted
from raykd.spec.optimizers import SGD
from raykd.store.run_folder import RunFolder
from raykd.training import best_epoch, loop
from raykd.training.best_epoch import num_epochs, why_stopped
from raykd.training.evaluate import Evaluation
from raykd.training.repair import repair_weights

RUN = run_of("baseline", student=recipe(epochs=9, patience=2, optimizer=SGD(lr=1e-6)))
TOPS = [20.0, 30.0, 25.0, 31.0, 31.0, 29.0, 40.0, 50.0, 60.0]  # no better one in two epochs after the fourth
ENDS = 6


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make validation return TOPS, by the epoch."""

    def validate(training: Any, epoch: int) -> Evaluation:
        return Evaluation(TOPS[epoch], 1.0, 100)

    monkeypatch.setattr(loop, "_validate", validate)


def test_a_run_ends_after_so_many_epochs_without_a_better_one(scripted: None, run_folder: RunFolder) -> None:
    reports = train(RUN, run_folder)
    assert [report.epoch for report in reports] == [*range(ENDS)]
    assert [report.is_last for report in reports] == [False] * (ENDS - 1) + [True]
    reason = "no better validation top-1 than 31.0 % of epoch 4 for 2 epochs"
    assert reports[-1].stopped_early == reason and not any(report.stopped_early for report in reports[:-1])
    record = run_folder.require_record()
    assert run_folder.status() == "done" and record.stopped_early == reason
    assert record.best is not None and record.best.epoch == 3 and len(run_folder.history()) == ENDS
    assert train(RUN, run_folder) == [], "a done run is not continued"


@pytest.mark.parametrize("num_steps", nightly_except([4 * ENDS], [1, 4, 4 * ENDS - 1, 4 * ENDS]))
def test_an_interrupted_run_ends_with_the_same_epoch(
    num_steps: int, scripted: None, run_folder: RunFolder, tmp_path: Path
) -> None:
    train(RUN, RunFolder(tmp_path / "whole"))
    left = iter([False] * (num_steps - 1) + [True])
    with pytest.raises(Interrupted):
        train(RUN, run_folder, should_stop=lambda: next(left))
    train(RUN, run_folder)
    assert outcome(run_folder.path) == outcome(tmp_path / "whole")


def test_a_run_killed_before_it_was_marked_as_done_trains_no_further(
    scripted: None, run_folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint then stands after the last epoch, and only its history tells that no other follows."""
    with monkeypatch.context() as patch:
        patch.setattr(loop, "finish_run", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(RUN, run_folder)
    assert train(RUN, run_folder) == []
    assert run_folder.status() == "done" and len(run_folder.history()) == ENDS
    assert run_folder.require_record().stopped_early


@pytest.mark.nightly
def test_damaged_weights_of_a_run_that_stopped_early_are_restored(scripted: None, run_folder: RunFolder) -> None:
    train(RUN, run_folder)
    before = run_folder.best.read_bytes()
    run_folder.best.write_bytes(before[:-1] + b"x")
    assert run_folder.status() == "damaged"
    repair_weights(RUN, run_folder, digits())
    assert run_folder.best.read_bytes() == before and run_folder.status() == "done"


def test_reason_is_a_function_of_the_history_which_may_have_an_epoch_twice() -> None:
    history = [{"epoch": epoch, "val_top1": top} for epoch, top in enumerate(TOPS)]
    assert best_epoch.kept_row(RUN.recipe, history[:ENDS])["epoch"] == 3
    for end in range(1, len(history) + 1):
        is_stopped = bool(why_stopped(RUN.recipe, history[:end]))
        assert is_stopped == (end == ENDS)
        assert num_epochs(RUN.recipe, history[:end]) == (ENDS if is_stopped else 9)
        assert bool(why_stopped(RUN.recipe, [*history[:end], history[end - 1]])) == is_stopped
    assert why_stopped(RUN.recipe, []) == why_stopped(recipe(epochs=9), history[:ENDS]) == ""
    ended = [{"epoch": epoch, "val_top1": 50.0} for epoch in range(9)]
    assert why_stopped(recipe(epochs=9, patience=8), ended) == "", "the recipe's last epoch ends every run"


@pytest.mark.nightly
def test_patience_that_only_the_last_epoch_can_exhaust_changes_nothing_but_the_fingerprint(tmp_path: Path) -> None:
    patient, plain = (run_of("baseline", student=recipe(epochs=2, patience=patience)) for patience in (1, None))
    assert patient.fingerprint != plain.fingerprint
    train(patient, RunFolder(tmp_path / "patient"))
    train(plain, RunFolder(tmp_path / "plain"))
    found, expected = (outcome(tmp_path / name) for name in ("patient", "plain"))
    assert found["state"] == expected["state"] and found["history"] == expected["history"]
