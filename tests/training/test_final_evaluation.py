"""A trained run is evaluated once: in a small experiment the test split is read once per run, and never by training.

Beside it: what val.json, test.json and costs.json hold, and what becomes of files of an older version.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest
from nightly import nightly_except
from small_runs import CPU, NO_WEIGHTS, digits, experiment, recipe

from raykd.bench.without_ray import train_plan
from raykd.data.types import Dataset
from raykd.methods import FeatureKD
from raykd.provenance import file_sha256
from raykd.spec.plan import Plan, make_plan
from raykd.store.run_folder import RunFolder
from raykd.store.run_store import RunStore
from raykd.training.compute import choose_compute
from raykd.training.final_evaluation import evaluate_on_test, is_tested
from raykd.training.metrics import compute_metrics
from raykd.training.model_file import load_model
from raykd.training.training_step import validation_of

COMPUTE = choose_compute(CPU, "fp32")
SCALARS = ("top1", "top5", "nll", "ece", "brier", "agreement", "teacher_kl")
reads: list[str] = []


@dataclass(frozen=True)
class Watched(Dataset):
    """Counts the reads of the test split."""

    def __getattribute__(self, name: str) -> Any:
        if name == "test":
            reads.append(name)
        return super().__getattribute__(name)


def watched() -> Watched:
    return Watched(**{field.name: getattr(digits(), field.name) for field in fields(Dataset)})


def plan_of(**changes: Any) -> Plan:
    """A teacher, two baselines, two distilled students of two epochs."""
    short = {"teacher": replace(experiment().teacher, epochs=2), "student": recipe(epochs=2), "seeds": (0, 1)}
    return make_plan(experiment(**short, **changes), digits(), NO_WEIGHTS)


def experiment_folders(results: Path, dataset: Dataset, plan: Plan) -> Iterator[RunFolder]:
    """Train all of `plan`, then give the folder of each run as it is evaluated."""
    store = RunStore(results)
    train_plan(plan, dataset, CPU, store)
    for run in plan.runs:
        evaluate_on_test(run, store.folder(run), dataset, COMPUTE)
        yield store.folder(run)


@pytest.mark.parametrize("source", nightly_except(["cache"], ["live", "cache"]))
def test_the_test_set_is_read_once_per_run_and_never_by_training(source: Any, tmp_path: Path) -> None:
    plan, dataset, store = plan_of(teacher_source=source), watched(), RunStore(tmp_path)
    reads.clear()
    train_plan(plan, dataset, CPU, store)
    assert len(plan.runs) == 5 and reads == [], "training asked for the test split"
    for number, run in enumerate(plan.runs):
        assert not is_tested(store.folder(run))
        evaluate_on_test(run, store.folder(run), dataset, COMPUTE)
        assert len(reads) == number + 1
    train_plan(plan, dataset, CPU, store)
    for run in plan.runs:
        evaluate_on_test(run, store.folder(run), dataset, COMPUTE)
    assert len(reads) == len(plan.runs), "a second command asked again"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunFolder]:
    """An experiment that was evaluated, a folder for each stage's first run. Read only."""
    found: dict[str, RunFolder] = {}
    for folder in experiment_folders(tmp_path_factory.mktemp("results"), digits(), plan_of()):
        found.setdefault(folder.require_record().stage, folder)
    return found


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


@pytest.mark.parametrize("stage", ["teacher", "baseline", "distilled"])
def test_files_hold_the_metrics_of_the_best_weights(stage: str, folders: dict[str, RunFolder]) -> None:
    folder = folders[stage]
    model = load_model(folder.best)
    teacher = load_model(folders["teacher"].best).eval() if stage == "distilled" else None
    splits = {folder.test: digits().test, folder.val: validation_of(experiment().data, digits(), CPU)}
    for path, split in splits.items():
        written, expected = read(path), compute_metrics(model, split, COMPUTE, 10, teacher)
        figures = {name: getattr(expected, name) for name in SCALARS if getattr(expected, name) is not None}
        assert {name: written[name] for name in figures} == pytest.approx(figures, rel=1e-4)
        assert len(figures) == (7 if teacher else 5)
        assert written["num_images"] == len(split)
        assert written["confusion"] == [list(row) for row in expected.confusion]
        assert written["class_top1"] == list(expected.class_top1)
        assert written["reliability"]["count"] == list(expected.reliability.count)
        assert written["classes"] == [str(digit) for digit in range(10)]
        assert written["weights_sha256"] == file_sha256(folder.best)


def test_val_json_has_the_accuracy_that_selected_the_epoch(folders: dict[str, RunFolder]) -> None:
    for folder in folders.values():
        assert read(folder.val)["top1"] == pytest.approx(folder.require_record().best.val_top1, abs=1e-9)


def test_agreement_is_reported_for_distilled_runs_only(folders: dict[str, RunFolder]) -> None:
    for stage, folder in folders.items():
        tested = read(folder.test)
        is_taught = stage == "distilled"
        assert (tested["agreement"] is not None) == (tested["teacher_kl"] is not None) == is_taught
        assert tested["teacher_sha256"] == (file_sha256(folders["teacher"].best) if is_taught else None)


def test_costs_are_of_the_models_and_measured_once_for_both_students(folders: dict[str, RunFolder]) -> None:
    costs = {stage: read(folder.costs) for stage, folder in folders.items()}
    assert costs["baseline"] == costs["distilled"], "the times would differ, had they been measured twice"
    assert costs["teacher"]["shape"] != costs["baseline"]["shape"]
    for stage, folder in folders.items():
        assert costs[stage]["parameters"] == folder.require_record().parameters
    assert costs["teacher"]["flops"] > costs["baseline"]["flops"] > 0


@pytest.mark.nightly
def test_no_agreement_with_a_missing_or_retrained_teacher(tmp_path: Path) -> None:
    plan, store = plan_of(), RunStore(tmp_path)
    train_plan(plan, digits(), CPU, store)
    teacher, first, second = (store.folder(plan.runs[index]) for index in (0, 3, 4))
    other = bytearray(teacher.best.read_bytes())
    other[-1] ^= 1
    teacher.best.write_bytes(other)
    evaluate_on_test(plan.runs[3], first, digits(), COMPUTE)
    teacher.best.unlink()
    evaluate_on_test(plan.runs[4], second, digits(), COMPUTE)
    for folder in (first, second):
        tested = read(folder.test)
        assert (tested["agreement"], tested["teacher_kl"], tested["teacher_sha256"]) == (None, None, None)
        assert 0 <= tested["ece"] <= 1


@pytest.mark.nightly
def test_an_older_test_json_is_left_as_it_is_and_the_test_set_alone(tmp_path: Path) -> None:
    plan, dataset, store = plan_of(), watched(), RunStore(tmp_path)
    train_plan(plan, dataset, CPU, store)
    folder = store.folder(plan.runs[0])
    old = {"top1": 50.0, "nll": 1.0, "num_images": 597, "weights_sha256": file_sha256(folder.best)}
    folder.test.write_text(json.dumps(old))
    reads.clear()
    evaluate_on_test(plan.runs[0], folder, dataset, COMPUTE)
    assert is_tested(folder) and reads == [] and read(folder.test) == old
    folder.test.unlink()
    evaluate_on_test(plan.runs[0], folder, dataset, COMPUTE)
    assert len(reads) == 1 and read(folder.test)["ece"] is not None


@pytest.mark.nightly
def test_an_interrupted_evaluation_is_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """test.json comes last: where it is there, the others are too."""
    plan, store = plan_of(), RunStore(tmp_path)
    train_plan(plan, digits(), CPU, store)
    folder = store.folder(plan.runs[0])
    with monkeypatch.context() as patched:

        def killed(*_: object) -> None:
            raise KeyboardInterrupt

        patched.setattr("raykd.training.final_evaluation.model_costs", killed)
        with pytest.raises(KeyboardInterrupt):
            evaluate_on_test(plan.runs[0], folder, digits(), COMPUTE)
    assert folder.val.is_file() and not folder.costs.is_file() and not is_tested(folder)
    evaluate_on_test(plan.runs[0], folder, digits(), COMPUTE)
    assert is_tested(folder) and folder.costs.is_file()


@pytest.mark.nightly
def test_a_student_of_features_is_compared_with_its_teacher_too(tmp_path: Path) -> None:
    *_, last = experiment_folders(tmp_path, digits(), plan_of(method=FeatureKD()))
    assert last.require_record().method == "feature_kd"
    assert 0 <= read(last.test)["agreement"] <= 100 and read(last.test)["teacher_kl"] > 0
