"""Tests of the failure policy: kinds of failure, whether and where runs are retried, and what the user reads."""

import errno
import os
import pickle
from dataclasses import dataclass
from importlib.machinery import ExtensionFileLoader, ModuleSpec
from pathlib import Path
from typing import get_args

import pytest
import torch
from safetensors import SafetensorError
from small_runs import CPU, digits, recipe, run_of

from raykd.data.memory import report_shortage
from raykd.errors import (
    RESUME,
    CodeFailed,
    ConfigError,
    DataError,
    Failure,
    Interrupted,
    OutOfMemory,
    RejectedConfiguration,
    RunDiverged,
    RunFailed,
    RunLocked,
)
from raykd.models.custom_network import Network
from raykd.spec.recipe import SGD
from raykd.store.run_folder import RunFolder
from raykd.training.failure import (
    CaptureFailed,
    Decision,
    ProcessLostGpu,
    UnusableGpu,
    classify_failure,
    decide_job,
    decide_trial,
    explaining_step,
    loses_gpu,
    recorded_error,
    rejecting_configuration,
)
from raykd.training.loop import fit


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (RunDiverged("loss term 'kd' became NaN"), "diverged"),
        (RejectedConfiguration("width = 0"), "rejected"),
        (MemoryError(), "out of memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), "out of memory"),
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), "out of memory"),
        (OutOfMemory("out of memory for a single image"), "out of memory"),
        (ValueError("a custom method's mistake"), "code"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), "code"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "outside"),
        (PermissionError(errno.EACCES, "Permission denied"), "outside"),
        (OSError(errno.ESTALE, os.strerror(errno.ESTALE)), "outside"),
        (SafetensorError("I/O error: No space left on device (os error 28)"), "outside"),
        (RuntimeError("unable to open file </x/logits.f16> in read-only mode: No such file"), "outside"),
        (RuntimeError("Training failed: OSError: [Errno 122] Disk quota exceeded"), "outside"),
        (RunLocked("locked by process 7 on cn1"), "outside"),
        (RunFailed("the teacher's weights have changed"), "outside"),
        (ConfigError("torch cannot use the GPU"), "outside"),
        (DataError("the images are gone"), "outside"),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "outside"),
        (RuntimeError("CUDA error: an error occurred\nTo enable device-side assertions, compile with ..."), "outside"),
        (RuntimeError("CUDA error: device-side assert triggered"), "code"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "outside"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasGemmEx`"), "code"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_BAD_PARAM"), "code"),
        (RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"), "outside"),
        (
            RuntimeError("NCCL error in: NCCLUtils.cpp:94, remote process exited"),
            "outside",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{type(value).__name__} {value}"[:40],
)
def test_each_error_has_its_kind_of_failure(error: Exception, failure: str) -> None:
    assert classify_failure(error) == failure


class GetTimeoutError(type("RayError", (Exception,), {"__module__": "ray.exceptions"})):  # type: ignore[misc]
    """An error with the class names of one of Ray's, which this test need not import."""


@dataclass(frozen=True)
class Row:
    """An error, and what follows for a job on a whole and on a shared GPU, for a trial there, and for several workers.

    failure: None if the run has not failed. Each retry is written as 'no', 'later', 'another process' or 'next
    command'; '*' is added if the decision ends the process, and '+' if it blames the GPU. reason: the start of what the
    user reads about a job; about a trial, it is the first line.
    """

    error: Exception
    failure: str | None
    job: str
    job_on_shared: str
    job_of_several: str
    trial: str
    trial_on_shared: str
    trial_of_several: str
    reason: str


POLICY = [
    Row(Interrupted("stopped after epoch 3, step 1; rerun the same command to resume"), None,
        "next command", "next command", "next command", "next command", "next command", "next command",
        "stopped after epoch 3, step 1; rerun the same command to resume"),
    Row(RunLocked("locked by process 7 on cn1"), None,
        "later", "later", "later", "next command", "next command", "next command",
        "locked by process 7 on cn1"),
    Row(RunDiverged("loss term 'kd' became NaN"), "diverged",
        "no", "no", "no*", "no", "no", "no",
        "loss term 'kd' became NaN"),
    Row(RejectedConfiguration("student.model.width = 0: must be at least 1"), "rejected",
        "no", "no", "no*", "no", "no", "no",
        "student.model.width = 0: must be at least 1"),
    Row(CaptureFailed("its training step cannot be captured; use --set student.step=eager"), "rejected",
        "no*", "no*", "no*", "no*", "no*", "no",
        "its training step cannot be captured; use --set student.step=eager"),
    Row(OutOfMemory("out of memory with student.batch_size = 512: lower it"), "out of memory",
        "no+", "later+", "no*", "no", "another process", "no",
        "out of memory with student.batch_size = 512: lower it"),
    Row(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. GPU 0 has 4 GiB. More"), "out of memory",
        "no+", "later+", "another process*", "no", "another process", "no",
        "out of memory (CUDA out of memory. Tried to allocate 2 GiB): use a GPU with more memory, or let fewer runs "
        "share it (workers.gpus); then rerun the same command"),
    Row(UnusableGpu("torch cannot use the GPU that this run was assigned"), "outside",
        "no+", "no+", "no*", "next command", "next command", "next command",
        "torch cannot use the GPU that this run was assigned"),
    Row(ProcessLostGpu("an earlier trial of this process lost the GPU"), "outside",
        "another process*+", "another process*+", "another process*",
        "another process*", "another process*", "next command",
        "an earlier trial of this process lost the GPU"),
    Row(RuntimeError("CUDA error: uncorrectable ECC error encountered"), "outside",
        "another process*+", "another process*+", "another process*",
        "another process*", "another process*", "next command",
        "RuntimeError: CUDA error: uncorrectable ECC error encountered\n"),
    Row(RuntimeError("CUDA error: device-side assert triggered"), "code",
        "no*", "no*", "another process*", "no*", "no*", "no",
        "RuntimeError: CUDA error: device-side assert triggered\n"),
    Row(RuntimeError("Connection closed by peer"), "code",
        "no", "no", "another process*", "no", "no", "no",
        "RuntimeError: Connection closed by peer\n"),
    Row(ValueError("a custom method's mistake"), "code",
        "no", "no", "another process*", "no", "no", "no",
        "ValueError: a custom method's mistake\n"),
    Row(OSError(errno.ENOSPC, "No space left on device"), "outside",
        "no", "no", "another process*", "next command", "next command", "next command",
        f"[Errno 28] No space left on device; {RESUME}"),
    Row(DataError("digits: there is not enough memory to read the images (can't allocate memory)"), "outside",
        "no", "no", "no*", "next command", "next command", "next command",
        "digits: there is not enough memory to read the images (can't allocate memory)"),
    Row(GetTimeoutError("the driver did not answer"), "outside",
        "no", "no", "another process*", "next command", "next command", "next command",
        "GetTimeoutError: the driver did not answer\n"),
]  # fmt: skip


def written(decision: Decision) -> str:
    return f"{decision.retry}{'*' if decision.ends_process else ''}{'+' if decision.blames_gpu else ''}"


@pytest.mark.parametrize("row", POLICY, ids=lambda row: f"{type(row.error).__name__} {row.error}"[:40])
def test_each_error_has_its_decision(row: Row) -> None:
    decided = {
        "job": decide_job(row.error, gpus=1.0),
        "job_on_shared": decide_job(row.error, gpus=0.5),
        "job_of_several": decide_job(row.error, gpus=1.0, workers=2),
        "trial": decide_trial(row.error, gpus=1.0),
        "trial_on_shared": decide_trial(row.error, gpus=0.5),
        "trial_of_several": decide_trial(row.error, gpus=1.0, workers=2),
    }
    assert {name: written(decision) for name, decision in decided.items()} == {
        name: getattr(row, name) for name in decided
    }
    is_trial = {name: name.startswith("trial") for name in decided}
    for name, decision in decided.items():
        locked_trial = isinstance(row.error, RunLocked) and is_trial[name]
        assert decision.failure == ("outside" if locked_trial else row.failure)
        if is_trial[name]:
            assert "\n" not in decision.reason and str(row.error).splitlines()[0] in decision.reason
        else:
            assert decision.reason.startswith(row.reason)


@pytest.mark.parametrize("row", POLICY, ids=lambda row: f"{type(row.error).__name__} {row.error}"[:40])
def test_without_a_gpu_no_decision_blames_one_or_waits_for_its_memory(row: Row) -> None:
    decision = decide_job(row.error, gpus=0)
    assert not decision.blames_gpu
    assert decision.retry == row.job.strip("*+") and decide_trial(row.error, gpus=0).retry == row.trial.strip("*+")


def test_a_job_is_out_of_memory_on_a_shared_gpu_once_and_then_blames_it() -> None:
    error = OutOfMemory("out of memory with student.batch_size = 512: lower it")
    assert written(decide_job(error, gpus=0.5)) == "later+"
    assert written(decide_job(error, gpus=0.5, was_out_of_memory=True)) == "no+"


@pytest.mark.parametrize("row", POLICY, ids=lambda row: f"{type(row.error).__name__} {row.error}"[:40])
def test_the_last_attempt_at_a_trial_asks_for_no_other_process(row: Row) -> None:
    retry = decide_trial(row.error, gpus=0.5, is_last_attempt=True).retry
    last = "next command" if row.failure in ("outside", None) else "no"
    assert retry == (last if row.trial_on_shared.startswith("another process") else row.trial_on_shared.strip("*"))


def test_an_error_in_the_code_keeps_its_traceback_after_the_first_line() -> None:
    try:
        raise KeyError("fc")
    except KeyError as error:
        first, *rest = decide_job(error, gpus=0).reason.splitlines()
        assert decide_trial(error, gpus=0).reason == "KeyError: 'fc'"
    assert first == "KeyError: 'fc'" and any("test_failure.py" in line for line in rest)


LATE_ERROR = """
from torch import nn
import helpers_of_mine

class Mine(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.head = nn.Linear(3, num_classes)

    def forward(self, x):
        if self.training and len(x) > 2:
            helpers_of_mine.WHAT
        return self.head(x.mean((2, 3)))
"""


@pytest.mark.parametrize(
    ("helper", "error"),
    [
        ("def fail(): None.x", "AttributeError: 'NoneType' object has no"),
        ("import torch; fail = lambda: torch.nn.Linear(2, 2)(torch.ones(3))", "RuntimeError: "),
    ],
)
def test_an_error_in_a_users_file_names_its_last_line_there(helper: str, error: str, tmp_path: Path) -> None:
    (tmp_path / "helpers_of_mine.py").write_text(f"# {tmp_path}\n{helper}\n")
    (tmp_path / "mine.py").write_text(f"# {tmp_path}\n{LATE_ERROR.replace('WHAT', 'fail()')}")
    run = run_of("baseline", student=recipe(model=Network(f"{tmp_path}/mine.py:Mine")))
    with pytest.raises(Exception) as caught:
        fit(run, digits(), RunFolder(tmp_path / "run"), CPU)
    name = f"helpers_of_mine.py line 2: {error}"
    assert decide_job(caught.value, gpus=0).reason.startswith(name)  # pyright: ignore[reportArgumentType]
    assert decide_trial(caught.value, gpus=0).reason.startswith(name)  # pyright: ignore[reportArgumentType]
    record = RunFolder(tmp_path / "run").require_record()
    assert record.failure == "code" and str(record.reason).startswith(name)


@pytest.mark.parametrize(
    "text", ["out of memory", "can't allocate memory", "CUDA error: ECC", "NCCL error", "os error"]
)
def test_the_text_of_raykds_errors_decides_nothing(text: str) -> None:
    for error in (RunFailed(text), ConfigError(text), RunDiverged(text), DataError(text), CodeFailed(text)):
        assert classify_failure(error) == type(error).failure and not loses_gpu(error)


@pytest.mark.parametrize("failure", [*get_args(Failure), None])
def test_a_recorded_failure_is_an_error_of_its_kind(failure: Failure | None) -> None:
    error = recorded_error(failure, "what the worker found")
    assert classify_failure(pickle.loads(pickle.dumps(error))) == (failure or "outside")  # noqa: S301
    assert str(error) == "what the worker found" and str(recorded_error(failure, None)) == "no reason recorded"


@pytest.mark.parametrize(
    "text",
    ["CUDA error: device-side assert triggered", "Triton Error [CUDA]: x", "NCCL communicator was aborted on rank 1"],
)
def test_after_errors_of_a_gpu_or_of_its_communication_the_process_is_replaced(text: str) -> None:
    assert loses_gpu(RuntimeError(text)) and not loses_gpu(torch.OutOfMemoryError("CUDA out of memory"))


def test_a_config_error_rejects_the_configuration_unless_the_data_caused_it() -> None:
    with pytest.raises(RejectedConfiguration, match="too narrow"), rejecting_configuration():
        raise ConfigError("too narrow")
    with pytest.raises(DataError), rejecting_configuration():
        raise DataError("gone")


def test_a_file_that_was_compiled_in_part_is_no_result_of_a_configuration(tmp_path: Path) -> None:
    """A killed compilation leaves an empty file in the cache, which later runs load; torch wraps their error."""
    path = tmp_path / "inductor" / "cw7x.main.so"
    path.parent.mkdir()
    path.touch()
    with pytest.raises(ImportError) as cause:
        ExtensionFileLoader("kernel", str(path)).create_module(ModuleSpec("kernel", None, origin=str(path)))
    text = f"backend='inductor' raised:\nImportError: {cause.value}\n\nSet TORCHDYNAMO_VERBOSE=1 for more"
    message = rf"\(file too short\).*; remove '{path}' and rerun"
    with pytest.raises(RunFailed, match=message) as raised, explaining_step(run_of("baseline")):
        raise RuntimeError(text)
    assert classify_failure(raised.value) == "outside" and "\n" not in str(raised.value)
    with pytest.raises(ImportError, match="no_such"), explaining_step(run_of("baseline")):
        raise ImportError("/x/no_such.so: cannot open shared object file: No such file or directory")


def test_run_json_records_whether_the_configuration_failed(run_folder: RunFolder) -> None:
    diverging = run_of("baseline", student=recipe(optimizer=SGD(lr=1e12)))
    with pytest.raises(RunDiverged):
        fit(diverging, digits(), run_folder, CPU)
    record = run_folder.require_record()
    assert record.failure == "diverged" and record.fails_by_configuration


def test_run_json_records_a_disk_failure_as_outside(run_folder: RunFolder) -> None:
    run_folder.path.mkdir()
    (run_folder.path / "checkpoint").write_text("a file where the checkpoint's folder belongs")
    with pytest.raises(ConfigError, match="is not a folder"):
        fit(run_of("baseline"), digits(), run_folder, CPU)
    record = run_folder.require_record()
    assert record.failure == "outside" and not record.fails_by_configuration
    (run_folder.path / "checkpoint").unlink()
    fit(run_of("baseline"), digits(), run_folder, CPU)
    assert run_folder.status() == "done" and not run_folder.require_record().fails_by_configuration


@pytest.mark.parametrize(
    "cause",
    [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")],
    ids=["Python", "torch"],
)
def test_a_node_without_memory_for_the_images_is_no_result_of_a_configuration(cause: Exception) -> None:
    with pytest.raises(DataError, match="not enough memory to read the images") as raised, report_shortage("digits"):
        raise cause
    assert classify_failure(raised.value) == "outside"
