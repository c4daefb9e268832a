"""Tests of checkpoints: every bit is restored, and a damaged file is named and refused."""

from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import safe_open
from small_runs import CPU, digits, recipe, run_of, teacher_of, train
from torch import Tensor

from raykd.errors import Interrupted, RunFailed
from raykd.methods import FeatureKD
from raykd.models.vit_cifar import ViT
from raykd.spec.plan import Run
from raykd.spec.recipe import SGD, AdamW
from raykd.store.run_folder import RunFolder
from raykd.training import loop
from raykd.training.checkpoint import Checkpoint, Progress, read_checkpoint, save_checkpoint
from raykd.training.compute import choose_compute
from raykd.training.hooks import CHECKPOINT_EVERY_S
from raykd.training.training_step import TrainState, make_train_state

RUNS = {
    "sgd": run_of("distilled", method=FeatureKD()),
    "sgd without momentum": run_of("baseline", student=recipe(optimizer=SGD(momentum=0.0))),
    "adamw": run_of("baseline", student=recipe(model=ViT(1, 24, 2, 2), optimizer=AdamW())),
}


def stop_after(run: Run, folder: RunFolder, steps: int) -> None:
    left = iter([False] * (steps - 1) + [True])
    with pytest.raises(Interrupted):
        train(run, folder, should_stop=lambda: next(left))


def trained_a_little(run: Run) -> TrainState:
    training = make_train_state(run, digits(), choose_compute(CPU, "fp32"), teacher_of(run))
    for batch in training.loader.epoch(0):
        training.step(batch, run.method.weights(0))
    return training


def state_of(training: TrainState) -> dict[str, Tensor]:
    """Weights, buffers and the optimizer's tensors by name."""
    optimizer = training.optimizer.state_dict()["state"]
    flat = {f"{n}.{k}": v for n, values in optimizer.items() for k, v in values.items() if isinstance(v, Tensor)}
    return {**training.objective.state_dict(), **flat}


def restore(path: Path, training: TrainState) -> Checkpoint:
    checkpoint = read_checkpoint(path)
    assert checkpoint is not None
    checkpoint.restore(training.objective, training.optimizer)
    return checkpoint


def layout(tensor: Tensor) -> list[int]:
    """Strides of the dimensions that are longer than 1: where each element lies."""
    return [stride for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1]


@pytest.mark.parametrize("name", RUNS)
def test_checkpoint_restores_every_bit(name: str, tmp_path: Path) -> None:
    training = trained_a_little(RUNS[name])
    best = {key: tensor.clone() for key, tensor in training.objective.student.network.state_dict().items()}
    progress = Progress(
        2, 3, 1.5, 1, 55.5, {"names": ["ce"], "sums": [[0.1 + 0.2]], "steps": 3}, [{"epoch": 0, "x": 1e-9}]
    )
    save_checkpoint(tmp_path / "a.safetensors", training.objective, training.optimizer, best, progress)

    fresh = make_train_state(RUNS[name], digits(), choose_compute(CPU, "fp32"), teacher_of(RUNS[name]))
    loaded = restore(tmp_path / "a.safetensors", fresh)
    assert asdict(loaded.progress) == asdict(progress)
    assert loaded.best.keys() == best.keys() and all(torch.equal(loaded.best[key], best[key]) for key in best)
    ours, theirs = state_of(fresh), state_of(training)
    assert ours.keys() == theirs.keys()
    for key in theirs:
        assert torch.equal(ours[key], theirs[key]) and layout(ours[key]) == layout(theirs[key]), key


@pytest.mark.parametrize("name", RUNS)
def test_the_step_after_a_resume_equals_the_uninterrupted_one(name: str, tmp_path: Path) -> None:
    run = RUNS[name]
    training = trained_a_little(run)
    save_checkpoint(tmp_path / "a.safetensors", training.objective, training.optimizer, {}, Progress())
    fresh = make_train_state(run, digits(), choose_compute(CPU, "fp32"), teacher_of(run))
    restore(tmp_path / "a.safetensors", fresh)
    for each in (training, fresh):
        each.step(next(each.loader.epoch(1)), run.method.weights(1))
    ours, theirs = state_of(fresh), state_of(training)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_checkpoint_holds_the_adapter_and_its_momentum(tmp_path: Path) -> None:
    training = trained_a_little(RUNS["sgd"])
    save_checkpoint(tmp_path / "a.safetensors", training.objective, training.optimizer, {}, Progress())
    with safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        names = set(file.keys())
    assert {"objective.adapter.weight", "objective.adapter.bias"} <= names
    momenta = [name for name in names if name.endswith(".momentum_buffer")]
    assert len(momenta) == len(list(training.objective.parameters()))


def test_a_missing_file_is_no_checkpoint(tmp_path: Path) -> None:
    assert read_checkpoint(tmp_path / "none") is None


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.3, 0.999])
def test_truncated_checkpoint_is_named_and_nothing_is_trained(share: float, run_folder: RunFolder) -> None:
    """Our own writer never leaves one; a full disk's copy or a network's hiccup may."""
    run = RUNS["sgd"]
    stop_after(run, run_folder, 2)
    content = run_folder.checkpoint.read_bytes()
    run_folder.checkpoint.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(RunFailed, match=r"checkpoint '.*last\.safetensors' is damaged .*remove it to train") as caught:
        train(run, run_folder)
    assert "\n" not in str(caught.value)
    assert run_folder.status() == "failed" and run_folder.require_record().reason == str(caught.value)
    run_folder.checkpoint.unlink()
    train(run, run_folder)
    assert run_folder.status() == "done"


def test_checkpoint_of_another_shape_is_refused(run_folder: RunFolder, tmp_path: Path) -> None:
    """A checkpoint that was copied by hand, or written by another version."""
    other = RunFolder(tmp_path / "other")
    stop_after(RUNS["adamw"], other, 2)
    stop_after(RUNS["sgd"], run_folder, 2)
    run_folder.checkpoint.write_bytes(other.checkpoint.read_bytes())
    with pytest.raises(RunFailed, match=r"checkpoint '.*last\.safetensors' belongs to another run") as caught:
        train(RUNS["sgd"], run_folder)
    assert "\n" not in str(caught.value)


def test_stale_files_beside_the_checkpoint_change_nothing(run_folder: RunFolder, tmp_path: Path) -> None:
    run, straight = RUNS["sgd"], RunFolder(tmp_path / "straight")
    stop_after(run, run_folder, 2)
    stale = run_folder.checkpoint.with_name(".0123456789ab-last.safetensors")
    stale.write_bytes(b"half")
    train(run, run_folder)
    train(run, straight)
    assert not stale.exists() and run_folder.best.read_bytes() == straight.best.read_bytes()


@pytest.mark.parametrize("every_s", [0.0, 3600.0])
def test_first_step_is_saved_immediately_and_others_when_they_are_due(
    every_s: float, run_folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[tuple[int, int]] = []

    def note(path: Path, objective: Any, optimizer: Any, best: Any, progress: Progress) -> None:
        saved.append((progress.epoch, progress.step))

    monkeypatch.setattr(loop, "save_checkpoint", note)
    train(run_of("baseline"), run_folder, checkpoint_every_s=every_s)
    every_step = [(epoch, step) for epoch in range(3) for step in range(1, 5)]
    assert saved == [*(every_step if every_s == 0 else every_step[:1]), (3, 0)]


@pytest.mark.parametrize(("save_s", "interval_s"), [(0.5, 60.0), (6.0, 300.0)])
def test_a_checkpoint_that_takes_long_is_written_less_often(
    run_folder: RunFolder, monkeypatch: pytest.MonkeyPatch, save_s: float, interval_s: float
) -> None:
    """On a slow filesystem the GPU would wait for a tenth of the time."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(loop.time, "monotonic", lambda: clock.now)

    def save(*_: object) -> None:
        clock.now += save_s

    monkeypatch.setattr(loop, "save_checkpoint", save)
    progress = SimpleNamespace(history=[], seconds=0.0)
    scaler, group = SimpleNamespace(state_dict=dict), SimpleNamespace(is_first=True)
    training: Any = SimpleNamespace(
        progress=progress, scaler=scaler, group=group, objective=None, optimizer=None, best=None
    )
    saver = loop._Checkpointer(training, run_folder, CHECKPOINT_EVERY_S)
    assert saver.is_due()
    saver.save()
    clock.now += interval_s - 0.1
    assert not saver.is_due()
    clock.now += 0.2
    assert saver.is_due()


def test_the_history_has_every_epoch_of_the_checkpoint(run_folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def check(path: Path, objective: Any, optimizer: Any, best: Any, progress: Progress) -> None:
        assert len(run_folder.history()) == len(progress.history)

    monkeypatch.setattr(loop, "save_checkpoint", check)
    train(run_of("baseline"), run_folder, checkpoint_every_s=0)


def test_full_disk_at_a_checkpoint_fails_the_run_with_a_reason(
    run_folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(loop, "save_checkpoint", full)
    with pytest.raises(OSError, match="No space left"):
        train(run_of("baseline"), run_folder)
    assert run_folder.status() == "failed" and "No space left" in run_folder.require_record().reason


@pytest.mark.parametrize("fused", [False, True])
def test_step_counts_are_on_the_device_that_the_optimizer_requires(fused: bool, tmp_path: Path) -> None:
    """Fused kernels read them on the weights' device, the others on the CPU; 'meta' stands for a GPU here."""
    trained = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(trained.parameters())
    trained(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    save_checkpoint(tmp_path / "last.safetensors", trained, optimizer, {}, Progress())
    module = torch.nn.Linear(2, 2, device="meta")
    fresh = torch.optim.AdamW(module.parameters())
    fresh.param_groups[0]["fused"] = fused
    found = read_checkpoint(tmp_path / "last.safetensors")
    assert found is not None
    found.restore(module, fresh)
    state = fresh.state[module.weight]
    assert state["step"].device.type == ("meta" if fused else "cpu") and state["exp_avg"].device.type == "meta"
