"""Tests of the kinds of failure: caused by the configuration, or by something outside of it that may pass."""

import errno
import os

import pytest
import torch
from safetensors import SafetensorError
from small_runs import CPU, digits, recipe, run_of

from raykd.errors import ConfigError, DataError, RejectedConfiguration, RunDiverged, RunFailed
from raykd.spec.recipe import SGD
from raykd.store.run_folder import RunFolder
from raykd.training.failure import classify_failure, loses_gpu, rejecting_configuration
from raykd.training.loop import fit
from raykd.training.train_one import RunLocked


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (RunDiverged("loss term 'kd' became NaN"), "diverged"),
        (RejectedConfiguration("width = 0"), "rejected"),
        (MemoryError(), "out of memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), "out of memory"),
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), "out of memory"),
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
