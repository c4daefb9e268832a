"""Classify failures: caused by the run's configuration, or by something outside of it that may pass.

A configuration that fails is a result of a search and is not retried. After a failure from outside (a full disk, a
damaged file, a folder that another process writes, a GPU that torch cannot use) the run is retried.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from safetensors import SafetensorError

from raykd.errors import ConfigError, DataError, RaykdError, RejectedConfiguration, RunDiverged, one_line
from raykd.spec.plan import Run
from raykd.store.records import Failure

# After these errors a process can no longer use its GPU, or communicate with the other workers of its run.
LOST_GPU = ("CUDA error", "CUBLAS_STATUS", "CUDNN_STATUS", "cuDNN error", "Triton Error", "NCCL")
# Errors in LOST_GPU that the same operation would cause again: an index out of range, unsupported shapes or types.
_REPEATED = ("device-side assert triggered", "STATUS_NOT_SUPPORTED", "STATUS_INVALID_VALUE", "STATUS_BAD_PARAM")
_NO_MEMORY = ("out of memory", "allocate memory")  # CUDA, torch's CPU allocator, the operating system
# Text of I/O errors from libraries that do not raise OSError: safetensors (Rust), and torch for mapped files.
_IO_TEXT = ("os error", "no space left", "disk quota", "input/output error", "stale file handle", "unable to open file")


class UnusableGpu(ConfigError):
    """torch cannot use the GPU that Ray assigned to a run."""


class CaptureFailed(RejectedConfiguration):
    """A training step that cannot be captured as a CUDA graph. It would fail again with the same configuration.

    Many versions of torch do not end such a capture: their allocator and generator remain in it, so that `empty_cache`
    and dropout raise internal errors for as long as the process lives (github.com/pytorch/pytorch/pull/190308).
    """


def classify_failure(error: BaseException) -> Failure:
    """Return the kind of failure of `error`.

    'code' is an error in raykd, a custom method or a library, which would occur again with the same configuration.
    """
    text = str(error).lower()
    if isinstance(error, RunDiverged | RejectedConfiguration):
        return "diverged" if isinstance(error, RunDiverged) else "rejected"
    if loses_gpu(error):
        return "code" if any(part in str(error) for part in _REPEATED) else "outside"
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or any(part in text for part in _NO_MEMORY):
        return "out of memory"
    is_outside = isinstance(error, OSError | RaykdError | SafetensorError) or any(part in text for part in _IO_TEXT)
    return "outside" if is_outside else "code"


def loses_gpu(error: BaseException) -> bool:
    """Return whether this process cannot use its GPU after `error`."""
    return isinstance(error, CaptureFailed) or any(part in str(error) for part in LOST_GPU)


def may_pass_on_another_gpu(error: BaseException, gpus: float) -> bool:
    """Return whether a run with `gpus` GPUs may succeed on another one.

    This GPU is not usable, is lost, or has no memory for the run, which another program may occupy.
    """
    is_lost = loses_gpu(error) and classify_failure(error) == "outside"
    return gpus > 0 and (isinstance(error, UnusableGpu) or is_lost or classify_failure(error) == "out of memory")


def out_of_memory_message(run: Run, error: BaseException) -> str:
    """Return one line for an out-of-memory error in the training of `run`, with fields that reduce memory."""
    role, recipe, detail = run.role, run.recipe, memory_detail(error)
    use_bf16 = "" if recipe.precision in ("bf16", "fp16") else f", set {role}.precision=bf16"
    return (
        f"out of memory with {role}.batch_size = {recipe.batch_size}: lower it{use_bf16}, raise "
        f"{role}.gradient_accumulation from {recipe.gradient_accumulation}, or use a GPU with more memory ({detail})"
    )


def memory_detail(error: BaseException) -> str:
    """Return the first two sentences of an out-of-memory error: what was tried, and how much memory there is."""
    return ". ".join(one_line(str(error)).split(". ")[:2]).rstrip(".") or type(error).__name__


def recompiles_too_often(error: BaseException) -> bool:
    """Return whether torch.compile gave up, because it compiled a function anew for too many steps.

    The class of the error is compared by name, since its import would take seconds.
    """
    return type(error).__name__ == "FailOnRecompileLimitHit"


@contextmanager
def rejecting_configuration() -> Iterator[None]:
    """Turn a ConfigError raised inside into RejectedConfiguration, unless the data set caused it."""
    try:
        yield
    except (DataError, RejectedConfiguration):
        raise
    except ConfigError as error:
        raise RejectedConfiguration(str(error)) from error
