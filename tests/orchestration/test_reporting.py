"""The end of a command: the best model of each role, selected by validation, and test metrics computed once."""

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from small_runs import NO_WEIGHTS, digits, experiment

from raykd.config import from_dict
from raykd.config.codec import read_checked_json, write_checked_json, write_record
from raykd.data.dataset_names import find_folder
from raykd.errors import ConfigError
from raykd.orchestration.command import Command
from raykd.orchestration.options import Options
from raykd.orchestration.reporting import evaluate_and_report, write_report
from raykd.report.build import build
from raykd.spec.plan import Plan, Run, make_plan, train_val_indices
from raykd.store.records import read_plan
from raykd.store.run_folder import RunFolder
from raykd.store.run_store import RunStore
from raykd.training.loop import fit
from raykd.training.model_file import load_model
from raykd.training.teacher.sources import LiveTeacher, no_teacher

CPU = torch.device("cpu")
NO_DATA = Path("no-data-here")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Plan]:
    """Train a teacher, two baselines and two distilled students, and evaluate none on the test split."""
    results = tmp_path_factory.mktemp("results")
    plan = make_plan(experiment(seeds=(0, 1)), digits(), NO_WEIGHTS)
    store = RunStore(results)
    store.write_plan(plan)
    for run in plan.runs:
        teacher = LiveTeacher(load_model(store.folder(run.teacher).best)) if run.teacher else no_teacher
        fit(run, digits(), store.folder(run), CPU, teacher)
    return results, plan


def of_stage(plan: Plan, stage: str) -> list[Run]:
    return [run for run in plan.runs if run.stage == stage]


def quiet() -> Console:
    return Console(file=io.StringIO(), width=100)


def set_val_top1(folder: RunFolder, val_top1: float) -> None:
    folder.update(best=replace(folder.require_record().best, val_top1=val_top1))


@pytest.mark.parametrize("winner", [0, 1])
@pytest.mark.parametrize(("stage", "role"), [("baseline", "small_student_baseline"), ("distilled", "small_student_kd")])
def test_best_seed_by_validation_is_saved_by_role(
    trained: tuple[Path, Plan], stage: str, role: str, winner: int
) -> None:
    results, plan = trained
    folders = [RunStore(results).folder(run) for run in of_stage(plan, stage)]
    for seed, folder in enumerate(folders):
        set_val_top1(folder, 60.0 if seed == winner else 50.0)
    write_report(results, quiet())
    saved = results / "models_saved" / f"{role}.safetensors"
    assert saved.read_bytes() == folders[winner].best.read_bytes()
    assert folders[winner].best.read_bytes() != folders[1 - winner].best.read_bytes()


def test_each_role_has_one_file_that_records_its_model(trained: tuple[Path, Plan]) -> None:
    results, _ = trained
    write_report(results, quiet())
    names = sorted(path.name for path in (results / "models_saved").iterdir())
    assert names == [f"small_{role}.safetensors" for role in ("student_baseline", "student_kd", "teacher")]
    model = load_model(results / "models_saved" / "small_teacher.safetensors")
    assert sum(p.numel() for p in model.parameters()) > 78_000


def test_runs_record_how_many_images_they_trained_on(trained: tuple[Path, Plan]) -> None:
    results, plan = trained
    for run in plan.runs:
        indices, _ = train_val_indices(run.data, digits().train.labels)
        assert RunStore(results).folder(run).require_record().num_train_images == len(indices) > 0


def test_a_done_run_without_its_weights_does_not_end_the_report(trained: tuple[Path, Plan], tmp_path: Path) -> None:
    """A user who removes best.safetensors may also have removed its SHA-256 from run.json."""
    results = tmp_path / "results"
    shutil.copytree(trained[0], results)
    for run in of_stage(trained[1], "distilled"):
        folder = RunStore(results).folder(run)
        folder.update(weights_sha256=None)
        folder.best.unlink()
    console = quiet()
    write_report(results, console)
    assert "models_saved/small_student_kd.safetensors is not updated: " in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_run_that_is_removed_while_its_weights_are_copied_does_not_end_the_report(
    trained: tuple[Path, Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "results"
    shutil.copytree(trained[0], results)
    shutil.rmtree(results / "models_saved", ignore_errors=True)

    def copy(source: Path, target: Path) -> None:
        if source.parent.parent.name == "teachers":
            shutil.rmtree(source.parent)
        target.write_bytes(source.read_bytes())

    monkeypatch.setattr(shutil, "copyfile", copy)
    write_report(results, console := quiet())
    printed = "".join(console.file.getvalue().split("\n"))  # type: ignore[attr-defined]
    assert "models_saved/small_teacher.safetensors is not updated: " in printed
    assert "was removed by another command in the meantime; rerun the same command" in printed
    assert not (results / "models_saved" / "small_teacher.safetensors").exists()
    assert (results / "models_saved" / "small_student_kd.safetensors").is_file()


def test_a_saved_model_of_earlier_runs_is_kept_and_named(trained: tuple[Path, Plan], tmp_path: Path) -> None:
    results, saved = tmp_path / "results", "models_saved/small_student_kd.safetensors"
    shutil.copytree(trained[0], results)
    write_report(results, first := quiet())
    path, content = results / "small" / "plan.json", (results / saved).read_bytes()
    plan = read_plan(path)
    write_record(path, replace(plan, stages={**plan.stages, "distilled": ("distilled-resnet8-kd-s0-0123456789ab",)}))
    write_report(results, second := quiet())
    line = f"{saved} is kept from an earlier run: no run of the current plan is done"
    assert [line in console.file.getvalue() for console in (first, second)] == [False, True]  # type: ignore[attr-defined]
    assert second.file.getvalue().count("kept from an earlier run") == 1  # type: ignore[attr-defined]
    assert (results / saved).read_bytes() == content


@pytest.mark.nightly
def test_report_evaluates_each_run_once(trained: tuple[Path, Plan]) -> None:
    results, plan = trained
    console = quiet()
    evaluate_and_report(Command(Options(results, find_folder(None, {})), console))
    metrics = {run.name: RunStore(results).folder(run).test.read_bytes() for run in plan.runs}
    assert set(json.loads((results / "report.json").read_text())) == {"small"}
    again = quiet()
    evaluate_and_report(Command(Options(results, find_folder(None, {})), again))
    assert "evaluating" not in again.file.getvalue()  # type: ignore[attr-defined]
    assert metrics == {run.name: RunStore(results).folder(run).test.read_bytes() for run in plan.runs}


@pytest.mark.parametrize(("trained_on", "evaluated_on"), [("cpu", "cpu"), ("cuda", "cuda"), ("cuda:0", "cuda")])
def test_report_evaluates_a_run_that_cpus_trained_on_the_cpu_even_if_there_is_a_gpu(
    trained_on: str, evaluated_on: str, trained: tuple[Path, Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results, used = tmp_path / "results", set[str]()
    shutil.copytree(trained[0], results)
    for run in trained[1].runs:
        folder = RunStore(results).folder(run)
        folder.test.unlink(missing_ok=True)
        folder.update(compute=replace(folder.require_record().compute, device=trained_on))
    monkeypatch.setattr("raykd.orchestration.reporting.best_device", lambda: torch.device("cuda"))
    monkeypatch.setattr("raykd.orchestration.reporting.write_report", lambda *_, **__: None)
    monkeypatch.setattr(
        "raykd.orchestration.reporting.evaluate_on_test",
        lambda run, folder, data, compute: used.add(compute.device.type),
    )
    evaluate_and_report(Command(Options(results, find_folder(None, {})), quiet()))
    assert used == {evaluated_on}


def test_run_trained_on_other_images_is_not_evaluated(tmp_path: Path) -> None:
    other_digits = replace(digits(), identity="of other digits")
    plan = make_plan(experiment(), other_digits, NO_WEIGHTS, ("baseline",))
    store, run = RunStore(tmp_path), plan.runs[0]
    store.write_plan(plan)
    fit(run, other_digits, store.folder(run), CPU)
    with pytest.raises(ConfigError, match=r"belongs to other images than these of digits; name .* with --data-dir"):
        evaluate_and_report(Command(Options(tmp_path, NO_DATA), quiet()))
    assert not store.folder(run).test.exists()


def test_recorded_run_equals_the_planned_run(trained: tuple[Path, Plan]) -> None:
    results, plan = trained
    for run in plan.runs:
        folder = RunStore(results).folder(run)
        assert from_dict(Run, folder.require_record().config) == run
        assert set(load_file(folder.best)) == set(load_model(folder.best).network.state_dict())


@pytest.mark.nightly
def test_imported_teacher_is_reported_like_any_other(trained: tuple[Path, Plan], tmp_path: Path) -> None:
    results, plan = trained
    teacher = RunStore(results).folder(of_stage(plan, "teacher")[0]).best
    imported = make_plan(experiment(teacher_checkpoint=str(teacher)), digits(), NO_WEIGHTS, ("teacher",))
    store = RunStore(tmp_path)
    store.write_plan(imported)
    fit(imported.runs[0], digits(), store.folder(imported.runs[0]), CPU)
    evaluate_and_report(Command(Options(tmp_path, NO_DATA), quiet()))
    assert json.loads((tmp_path / "report.json").read_text())["small"]["teacher_accuracy"] > 0
    assert not any(summary.missing for summary in build(tmp_path).summaries)


@pytest.mark.nightly
def test_run_recorded_by_another_version_does_not_stop_the_report(trained: tuple[Path, Plan], tmp_path: Path) -> None:
    results = tmp_path / "results"
    shutil.copytree(trained[0], results)
    evaluate_and_report(Command(Options(results, NO_DATA), quiet()))
    for path in results.glob("*/*/run.json"):
        record = read_checked_json(path)
        record["config"]["recipe"]["ema_decay"] = 0.999
        write_checked_json(path, record)
    write_report(results, quiet())
