"""Tests of how a run ends: done, failed with a reason, stopped and resumed, or locked by another process."""

import math
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_runs import recipe, run_of, teacher_of, train

from raykd.data.loader import Batch
from raykd.errors import ConfigError, Interrupted, RunFailed
from raykd.methods import KD
from raykd.models.four_stage_resnet import ResNet
from raykd.outputs import Outputs
from raykd.spec.plan import Run
from raykd.spec.recipe import SGD
from raykd.store.records import Best
from raykd.store.run_folder import RunFolder
from raykd.training import loop
from raykd.training.teacher.sources import LiveTeacher, NoTeacher


class Bad:
    """A teacher whose logits are NaN or infinite from one step on; it is first asked to show its shapes."""

    def __init__(self, run: Run, epoch: int, step: int, value: float) -> None:
        self.teacher, self.value, self.calls = teacher_of(run), value, 0
        self.first_bad = 1 + 4 * epoch + step  # 4 steps an epoch
        self.identity, self.source, self.top_classes = self.teacher.identity, self.teacher.source, None

    def __call__(self, batch: Batch) -> Outputs:
        outputs = self.teacher(batch)
        assert outputs is not None
        self.calls += 1
        is_bad = self.calls > self.first_bad
        return Outputs(outputs.logits * self.value, outputs.embedding) if is_bad else outputs


@pytest.mark.parametrize("every_s", [0, 60], ids=["each step", "rarely"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_stops_the_run_with_epoch_step_and_term(value: float, every_s: float, run_folder: RunFolder) -> None:
    run = run_of("distilled")
    message = (
        "loss term 'kd' became NaN or infinite in epoch 1, step 2: the teacher's outputs are .*; check its weights"
    )
    with pytest.raises(RunFailed, match=message) as caught:
        train(run, run_folder, Bad(run, 1, 2, value), checkpoint_every_s=every_s)
    record = run_folder.require_record()
    assert (record.status, record.reason) == ("failed", str(caught.value)) and run_folder.status() == "failed"
    assert not run_folder.best.exists()


def test_partly_trained_run_is_not_finished_with_another_teacher(run_folder: RunFolder) -> None:
    run = run_of("distilled")
    teacher = teacher_of(run)
    assert isinstance(teacher, LiveTeacher)
    calls = iter(range(100))
    with pytest.raises(Interrupted):
        train(run, run_folder, LiveTeacher(teacher.model, "a" * 64), should_stop=lambda: next(calls) == 5)
    before = run_folder.checkpoint.read_bytes()
    with pytest.raises(RunFailed, match=f"have changed since; remove {run_folder.path}"):
        train(run, run_folder, LiveTeacher(teacher.model, "b" * 64))
    assert run_folder.checkpoint.read_bytes() == before and run_folder.status() == "interrupted"
    train(run, run_folder, LiveTeacher(teacher.model, "a" * 64))
    assert run_folder.status() == "done"


def test_checkpoint_without_its_record_is_not_resumed(run_folder: RunFolder) -> None:
    """Only run.json has the teacher, the precision and the threads that the checkpoint was trained with."""
    run = run_of("distilled")
    teacher = teacher_of(run)
    assert isinstance(teacher, LiveTeacher)
    calls = iter(range(100))
    with pytest.raises(Interrupted):
        train(run, run_folder, LiveTeacher(teacher.model, "a" * 64), should_stop=lambda: next(calls) == 5)
    before = run_folder.checkpoint.read_bytes()
    run_folder.record_path.unlink()
    for _ in range(2):  # the refusal writes no run.json, which the next attempt would trust
        with pytest.raises(RunFailed, match=f"run.json is missing beside its checkpoint.*remove {run_folder.path} and"):
            train(run, run_folder, LiveTeacher(teacher.model, "b" * 64))
    assert run_folder.checkpoint.read_bytes() == before and not run_folder.record_path.exists()


def test_run_is_not_trained_on_other_images_than_it_names(run_folder: RunFolder) -> None:
    run = replace(run_of("baseline"), data_identity="of other images")
    with pytest.raises(ConfigError, match="belongs to other images than these of digits; name their folder"):
        train(run, run_folder)
    assert run_folder.status() == "not started"


def test_failed_run_starts_again_from_its_last_good_step_and_ends_as_if_it_never_failed(
    run_folder: RunFolder, tmp_path: Path
) -> None:
    run = run_of("distilled")
    with pytest.raises(RunFailed):
        train(run, run_folder, Bad(run, 1, 2, math.nan), checkpoint_every_s=0)
    reports = train(run, run_folder)
    assert [report.epoch for report in reports] == [1, 2]
    assert run_folder.status() == "done" and run_folder.require_record().reason is None
    straight = RunFolder(tmp_path / "straight")
    train(run, straight)
    assert straight.best.read_bytes() == run_folder.best.read_bytes()


def test_weights_that_became_nan_in_the_last_step_fail_the_run(run_folder: RunFolder) -> None:
    """The last step's own losses are still finite: only validation sees what its update did."""
    run = run_of("baseline", student=recipe(epochs=1, batch_size=200, optimizer=SGD(lr=1e12)))
    with pytest.raises(RunFailed, match="epoch 0"):
        train(run, run_folder)
    assert run_folder.status() == "failed"


def test_diverging_run_fails(run_folder: RunFolder) -> None:
    message = r"'ce' became NaN or infinite in epoch 0, step \d: the student's logits did; lower the learning rate, or"
    with pytest.raises(RunFailed, match=message):
        train(run_of("baseline", student=recipe(optimizer=SGD(lr=1e12))), run_folder)


def test_nan_of_the_students_logits_is_not_blamed_on_the_teacher(run_folder: RunFolder) -> None:
    message = r"'ce' became NaN or infinite in epoch 0, step \d: the student's logits did; lower the learning rate, or"
    with pytest.raises(RunFailed, match=message):
        train(run_of("distilled", student=recipe(optimizer=SGD(lr=1e12))), run_folder, teacher_of(run_of("distilled")))


def test_nan_of_a_methods_term_names_the_method(run_folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def terms(*_: object) -> dict[str, torch.Tensor]:
        return {"kd": torch.full((), math.nan)}

    monkeypatch.setattr(KD, "terms", terms)
    message = "'kd' is NaN .* in the first step, before any update: the student's logits are finite; check the method's"
    with pytest.raises(RunFailed, match=message):
        train(run_of("distilled"), run_folder, teacher_of(run_of("distilled")))


def test_an_error_in_the_code_is_recorded(run_folder: RunFolder) -> None:
    class Broken(NoTeacher):
        def __call__(self, batch: Batch) -> None:
            raise ZeroDivisionError("in a teacher")

    with pytest.raises(ZeroDivisionError):
        train(run_of("distilled"), run_folder, Broken())
    assert (run_folder.status(), run_folder.require_record().reason) == ("failed", "in a teacher")


def test_a_model_that_cannot_be_built_is_recorded(run_folder: RunFolder) -> None:
    run = run_of("baseline")
    wide = replace(run, recipe=replace(run.recipe, model="vit6", batch_size=201))
    with pytest.raises(ConfigError):
        train(wide, run_folder)
    assert run_folder.status() == "failed" and "batch_size = 201" in run_folder.require_record().reason


def test_done_run_is_not_changed(run_folder: RunFolder) -> None:
    run = run_of("baseline")
    train(run, run_folder)
    before = {path: path.read_bytes() for path in run_folder.path.rglob("*") if path.is_file()}
    assert train(run, run_folder) == []
    assert before == {path: path.read_bytes() for path in run_folder.path.rglob("*") if path.is_file()}


def test_done_run_writes_deleted_weights_again_without_training(run_folder: RunFolder) -> None:
    run = run_of("baseline")
    train(run, run_folder)
    weights = run_folder.best.read_bytes()
    run_folder.best.unlink()
    assert run_folder.status() == "damaged" == run_folder.status(reads_weights=False)
    assert train(run, run_folder) == []
    assert run_folder.status() == "done" and run_folder.best.read_bytes() == weights


def test_run_that_another_process_has_locked_is_not_touched(run_folder: RunFolder) -> None:
    with RunFolder(run_folder.path).lock(), pytest.raises(RunFailed, match="is locked by another process"):
        train(run_of("baseline"), run_folder)
    assert run_folder.status() == "not started"


def test_resumes_are_counted_and_seconds_add_up(run_folder: RunFolder) -> None:
    run = run_of("baseline")
    for _ in range(2):
        with pytest.raises(Interrupted):
            train(run, run_folder, should_stop=lambda: time.sleep(0.05) or True)
    train(run, run_folder)
    record = run_folder.require_record()
    assert record.resumes == 2 and record.seconds > 0.1
    assert run_folder.history()[-1]["seconds"] <= record.seconds


def test_jumping_clock_changes_no_result(
    run_folder: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, straight = run_of("baseline"), RunFolder(tmp_path / "straight")
    train(run, straight)
    jumps = iter([0.0, 1e9, -1e9, 5.0, 1e12] * 100)
    monkeypatch.setattr(loop.time, "monotonic", lambda: next(jumps))
    monkeypatch.setattr("raykd.training.run_record.now", lambda: "1970-01-01T00:00:00+00:00")
    reports = train(run, run_folder)
    assert all(math.isfinite(report.images_per_s) for report in reports)
    assert straight.best.read_bytes() == run_folder.best.read_bytes()


def test_the_number_of_threads_is_restored(run_folder: RunFolder) -> None:
    """A worker trains run after run: what one of them keeps must not become the next one's."""
    before = torch.get_num_threads()
    run, seen = run_of("baseline", student=recipe(epochs=2)), []
    with pytest.raises(Interrupted):
        train(run, run_folder, should_stop=lambda: True)  # its first checkpoint, from which on the number is kept
    run_folder.update(compute=replace(run_folder.require_record().compute, threads=before + 1))
    train(run, run_folder, should_stop=lambda: seen.append(torch.get_num_threads()) or False)
    assert set(seen) == {before + 1}
    assert torch.get_num_threads() == before


def test_imported_teacher_is_evaluated_and_saved_without_training(tmp_path: Path) -> None:
    source = RunFolder(tmp_path / "source")
    trained = run_of("teacher")
    train(trained, source)
    run = run_of("teacher", teacher_checkpoint=str(source.best))
    folder = RunFolder(tmp_path / "imported")
    assert train(run, folder) == []
    assert folder.status() == "done" and folder.history() == []
    assert folder.require_record().best == Best(None, source.require_record().best.val_top1)
    ours, theirs = load_file(folder.best), load_file(source.best)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_imported_teacher_of_another_shape_fails_with_its_reason(tmp_path: Path) -> None:
    source, folder = RunFolder(tmp_path / "source"), RunFolder(tmp_path / "imported")
    train(run_of("baseline"), source)
    wrong = run_of("teacher", teacher_checkpoint=str(source.best), teacher=recipe(model=ResNet((1, 1, 1, 1), 12)))
    with pytest.raises(ConfigError, match="another architecture"):
        train(wrong, folder)
    assert folder.status() == "failed" and "another architecture" in folder.require_record().reason
