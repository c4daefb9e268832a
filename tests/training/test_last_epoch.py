"""Runs that keep their last epoch, and runs without validation images, as in published tables."""

from dataclasses import replace
from math import isnan
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_runs import CPU, digits, experiment, plan_of, recipe, run_of, train

from raykd.config import to_dict
from raykd.errors import ConfigError, Interrupted, RunDiverged
from raykd.methods import PKT
from raykd.orchestration.experiment_plans import warning_lines
from raykd.orchestration.progress import run_line
from raykd.orchestration.run_queue import Job, JobStatus, State
from raykd.spec.experiment import Data
from raykd.spec.plan import train_val_indices
from raykd.spec.search import Search, choice
from raykd.store.run_folder import RunFolder
from raykd.training import loop
from raykd.training.best_epoch import kept_row
from raykd.training.compute import choose_compute
from raykd.training.evaluate import Evaluation
from raykd.training.final_evaluation import evaluate_on_test
from raykd.training.model_file import load_model
from raykd.training.teacher.import_check import check_import, describe_accuracy

LAST = recipe(keep="last")
DATA = experiment().data
NO_VALIDATION = {"data": replace(DATA, val_images=0), "teacher": replace(experiment().teacher, keep="last")}
RUN = run_of("baseline", student=LAST, **NO_VALIDATION)
TOPS = [30.0, 50.0, 20.0]


def weights_of(folder: RunFolder) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Return the kept weights, and those of the last step."""
    last = load_file(folder.checkpoint)
    prefix = "objective.student.network."
    return load_file(folder.best), {
        name.removeprefix(prefix): tensor for name, tensor in last.items() if name.startswith(prefix)
    }


@pytest.mark.parametrize(("keep", "epoch", "top1"), [("best", 1, 50.0), ("last", 2, 20.0)])
def test_a_run_keeps_the_epoch_that_its_recipe_names(
    keep: Any, epoch: int, top1: float, run_folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_validate", lambda training, epoch: Evaluation(TOPS[epoch], 1.0, 100))
    reports = train(run_of("baseline", student=recipe(keep=keep)), run_folder)
    best = run_folder.require_record().best
    assert best is not None and (best.epoch, best.val_top1) == (epoch, top1)
    assert reports[-1].best_val_top1 == top1
    assert kept_row(recipe(keep=keep), run_folder.history())["epoch"] == epoch
    kept, last = weights_of(run_folder)
    assert all(torch.equal(kept[name], last[name]) for name in kept) == (keep == "last")


def test_the_default_is_not_recorded_so_that_earlier_runs_are_found_again() -> None:
    assert "keep" not in to_dict(recipe(), results_only=True) and to_dict(LAST, results_only=True)["keep"] == "last"
    assert run_of("baseline", student=LAST).fingerprint != run_of("baseline").fingerprint


def test_a_run_without_validation_images_trains_on_all_others(run_folder: RunFolder) -> None:
    run = run_of("baseline", student=LAST, **(NO_VALIDATION | {"data": Data("digits", val_images=0, image_size=8)}))
    reports = train(run, run_folder)
    record = run_folder.require_record()
    assert record.num_train_images == len(digits().train) and record.best is not None
    assert (record.best.epoch, record.best.val_top1) == (2, None)
    assert all(isnan(value) for report in reports for value in (report.val_top1, report.val_loss, report.best_val_top1))
    assert all(isnan(row["val_top1"]) and isnan(row["val_loss"]) for row in run_folder.history())
    evaluate_on_test(run, run_folder, digits(), choose_compute(CPU, "fp32"))
    assert run_folder.test.exists() and not run_folder.val.exists()


def test_a_run_without_validation_images_resumes_bit_by_bit(run_folder: RunFolder, tmp_path: Path) -> None:
    whole = RunFolder(tmp_path / "whole")
    train(RUN, whole)
    for num_steps in (1, 3, 4):
        left = iter([False] * (num_steps - 1) + [True])
        with pytest.raises(Interrupted):
            train(RUN, run_folder, should_stop=lambda left=left: next(left))
    train(RUN, run_folder)
    assert run_folder.best.read_bytes() == whole.best.read_bytes()
    assert run_folder.require_record().best == whole.require_record().best


def test_invalid_weights_are_found_without_validation_images(
    run_folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The losses of an epoch are finite before the update that makes its weights infinite."""
    original = loop._run_steps

    def run_steps(training: Any, *arguments: Any) -> Any:
        result = original(training, *arguments)
        next(training.objective.student.parameters()).data.fill_(torch.inf)
        return result

    monkeypatch.setattr(loop, "_run_steps", run_steps)
    with pytest.raises(RunDiverged, match="weights became NaN or infinite after epoch 0"):
        train(RUN, run_folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, r"keep = 'best' in Recipe: .* set teacher\.keep=last"),
        ({"teacher": NO_VALIDATION["teacher"]}, r"keep = 'best' in Recipe: .* set student\.keep=last"),
        (
            NO_VALIDATION | {"student": LAST, "search": Search({"method.alpha": choice(0.1, 0.9)})},
            r"val_images = 0 in Data: must be above 0, because a search selects by validation",
        ),
        (
            NO_VALIDATION
            | {
                "student": LAST,
                "method": PKT(),
                "teacher": recipe(keep="last", model=replace(LAST.model, classifier=False)),
            },
            r"val_images = 0 in Data: must be above 0, because a linear probe selects by validation",
        ),
    ],
)
def test_whatever_selects_by_validation_requires_validation_images(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        experiment(**({"data": NO_VALIDATION["data"]} | changes))


def test_a_patience_requires_the_best_epoch() -> None:
    with pytest.raises(ConfigError, match=r"patience = 1 in Recipe: .*keep = last selects no epoch"):
        recipe(keep="last", patience=1)


def test_few_validation_images_that_select_an_epoch_are_named() -> None:
    few = replace(DATA, val_images=25)
    (line,) = warning_lines(plan_of(experiment(data=few)))
    assert line.startswith("warning: 25 validation images (data.val_images) select the epoch of each run, and the")
    assert "is up to 10 points" in line
    kept = {"teacher": NO_VALIDATION["teacher"], "student": LAST}
    assert warning_lines(plan_of(experiment(data=few, **kept))) == []
    assert warning_lines(plan_of(experiment(data=NO_VALIDATION["data"], **kept))) == []
    assert warning_lines(plan_of(experiment())) == []


def test_progress_and_data_lines_show_no_validation_without_its_images(run_folder: RunFolder) -> None:
    report = train(RUN, run_folder)[0]
    running, done = (JobStatus(Job("train", RUN), state, report=report) for state in (State.RUNNING, State.DONE))
    for status in (running, done):
        assert "val" not in run_line(status) and "nan" not in run_line(status)
    assert "val" in run_line(JobStatus(Job("train", RUN), State.DONE, report=replace(report, best_val_top1=50.0)))
    assert ": 1,200 train, no validation, 597 test images" in digits().description(0)[0]


@pytest.mark.nightly
def test_an_imported_teacher_is_checked_on_training_images_if_there_are_no_others(tmp_path: Path) -> None:
    run = run_of("teacher", student=LAST, **(NO_VALIDATION | {"teacher": recipe(keep="last", epochs=12)}))
    folder, compute = RunFolder(tmp_path / "teacher"), choose_compute(CPU, "fp32")
    train(run, folder)
    result = check_import(load_model(folder.best), run.data, digits(), compute)
    train_indices, val_indices = train_val_indices(run.data, digits().train.labels)
    assert len(val_indices) == 0 and result.num_images == len(train_indices)
    assert result.on_training_images and not result.refused
    assert describe_accuracy(result).startswith("training top-1 ")
