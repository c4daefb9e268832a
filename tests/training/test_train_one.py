"""One run by `train_one`: locked by another process, and with TensorBoard files that cannot be written."""

import gc
import os
import subprocess
import weakref
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import CPU, digits, run_of
from test_model_file import scalars
from written_records import run_record

from raykd.errors import OutOfMemory, RunFailed, RunLocked
from raykd.store.run_folder import RunFolder
from raykd.store.run_store import RunStore
from raykd.training import loop
from raykd.training.compute import choose_compute
from raykd.training.hooks import EpochReport, Hooks
from raykd.training.teacher.sources import no_teacher
from raykd.training.train_one import Observers, locked, train_one
from raykd.training.training_step import TrainState, make_train_state

RUN = run_of("baseline")
WITH_TENSORBOARD = Observers(tensorboard=True)


def train(folder: RunFolder, hooks: Hooks = Hooks()) -> None:  # noqa: B008 - frozen
    train_one(RUN, folder, digits(), CPU, RunStore(folder.path.parent), None, hooks, observers=WITH_TENSORBOARD)


@pytest.fixture
def full_disk(run_folder: RunFolder) -> Iterator[Path]:
    """TensorBoard's folder as a filesystem of 4 KiB with less than an epoch's bytes left."""
    folder = run_folder.tensorboard
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs root and the right to mount")
    (folder / "filler").write_bytes(b"x" * 4096)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def assert_done_and_logged_once(folder: RunFolder, messages: list[str], reason: str) -> None:
    assert folder.status() == "done"
    assert [row["epoch"] for row in folder.history()] == list(range(RUN.recipe.epochs))
    (line,) = messages
    assert line.startswith(f"TensorBoard files in '{folder.tensorboard}' cannot be written") and reason in line


def test_a_full_disk_for_tensorboard_does_not_fail_the_run_and_is_logged_once(
    run_folder: RunFolder, full_disk: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    train(run_folder)
    assert capfd.readouterr().err == "", "no thread printed a traceback"
    assert_done_and_logged_once(run_folder, caplog.messages, "No space left on device")


def test_a_file_in_the_place_of_tensorboards_folder_fails_no_run_and_is_logged_once(
    run_folder: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    run_folder.path.mkdir(parents=True)
    run_folder.tensorboard.write_text("not a folder")
    train(run_folder)
    assert_done_and_logged_once(run_folder, caplog.messages, "File exists")


def test_epochs_are_written_again_once_tensorboards_folder_can_be_written(run_folder: RunFolder) -> None:
    run_folder.path.mkdir(parents=True)
    run_folder.tensorboard.write_text("not a folder")

    def free_after_the_first(report: EpochReport) -> None:
        if report.epoch == 0:
            run_folder.tensorboard.unlink()

    train(run_folder, Hooks(free_after_the_first))
    assert [step for step, _ in scalars(run_folder.tensorboard)["top1/val"]] == [1, 2]


def test_a_run_that_another_process_writes_is_locked_and_not_changed(run_folder: RunFolder) -> None:
    other = RunFolder(run_folder.path)
    with other.lock():
        record = run_record(writer="process 7 on cn1", status="running")
        other.write_record(record)
        since = r"since 20\d\d-\d\d-\d\d \d\d:\d\d UTC \(to end it, on cn1: kill 7\)$"
        with pytest.raises(RunLocked, match=f"^locked by process 7 on cn1 {since}"):
            train(run_folder)
        assert other.record() == record
    with locked(run_folder):
        train(run_folder)  # the lock is reentrant within a process
    assert run_folder.status() == "done"


def test_a_run_out_of_memory_leaves_none_of_its_tensors_behind(
    run_folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cycle of an error and a frame in its traceback would keep them until Python collects cycles."""
    objectives = []

    def keep_reference(*arguments: Any, **named: Any) -> TrainState:
        training = make_train_state(*arguments, **named)
        objectives.append(weakref.ref(training.objective))
        return training

    def run_out_of_memory(_: EpochReport) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(loop, "make_train_state", keep_reference)
    gc.disable()
    try:
        with suppress(RunFailed):
            train(run_folder, Hooks(run_out_of_memory))
        assert objectives[0]() is None
    finally:
        gc.enable()
    assert run_folder.require_record().failure == "out of memory"


def test_a_teacher_that_does_not_fit_on_the_gpu_is_one_line_with_the_remedy(
    run_folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_teacher(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 4 GiB")

    monkeypatch.setattr("raykd.training.train_one.load_teacher", load_teacher)
    with pytest.raises(OutOfMemory, match=r"while the teacher of .* is loaded: use a GPU .*Tried to allocate"):
        train(run_folder)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("folder:photos", "set data.storage=disk to decode them in each step, use a GPU with more memory"),
        ("cifar10", "use a GPU with more memory"),  # is never on disk
    ],
)
def test_images_that_do_not_fit_on_the_gpu_are_one_line_with_the_remedy(
    name: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def render(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 40 GiB")

    monkeypatch.setattr("raykd.data.loader.make_renderer", render)
    run = run_of("baseline")
    run = replace(run, data=replace(run.data, name=name))
    with pytest.raises(OutOfMemory, match=rf"while the images of {name} are copied to the GPU: {remedy}.*workers.gpus"):
        make_train_state(run, digits(), choose_compute(CPU, "fp32"), no_teacher)
