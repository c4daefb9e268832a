"""Why a run failed: because of its own configuration, or because of something outside of it, which may pass.

A configuration that fails is a result of a search and is not tried again. After a failure outside of it (a full disk,
a damaged file, a folder that another process writes, a GPU that torch cannot use) the run is trained again.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from safetensors import SafetensorError

from raykd.errors import ConfigError, DataError, RaykdError, RejectedConfiguration, RunDiverged, one_line
from raykd.spec.plan import Run

Failure = Literal["diverged", "rejected", "out of memory", "code", "outside"]
# After these a process can use no GPU, or can no longer communicate with the other workers of its run.
LOST_GPU = ("CUDA error", "CUBLAS_STATUS", "CUDNN_STATUS", "cuDNN error", "Triton Error", "NCCL")
_NO_MEMORY = ("out of memory", "allocate memory")  # of CUDA, of torch's CPU allocator, of the operating system
# How libraries that raise no OSError report one: Rust's (safetensors), and torch's of files that it maps.
_NO_FILE = ("os error", "no space left", "disk quota", "input/output error", "stale file handle", "unable to open file")


def classify_failure(error: BaseException) -> Failure:
    """Return the kind of failure that `error` stands for.

    code: an error of raykd's code, of a custom method or of a library, which the same configuration meets again.
    """
    text = str(error).lower()
    if isinstance(error, RunDiverged | RejectedConfiguration):
        return "diverged" if isinstance(error, RunDiverged) else "rejected"
    if loses_gpu(error):
        return "outside"
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or any(words in text for words in _NO_MEMORY):
        return "out of memory"
    outside = isinstance(error, OSError | RaykdError | SafetensorError) or any(words in text for words in _NO_FILE)
    return "outside" if outside else "code"


def loses_gpu(error: BaseException) -> bool:
    """Whether this process can train nothing more on its GPU after `error`."""
    return any(words in str(error) for words in LOST_GPU)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether `error` says that a GPU or the machine has no memory left; not so for a lost GPU."""
    return classify_failure(error) == "out of memory"


def out_of_memory_message(run: Run, error: BaseException) -> str:
    """Return one line for an out-of-memory error in the training of `run`, with the fields that need less."""
    whose, recipe = "teacher" if run.stage == "teacher" else "student", run.recipe
    lower = "" if recipe.precision == "bf16" else f", set {whose}.precision=bf16"
    detail = ". ".join(one_line(str(error)).split(". ")[:2]).rstrip(".") or type(error).__name__
    return (
        f"out of memory with {whose}.batch_size = {recipe.batch_size}: lower it{lower}, or use a GPU with more memory "
        f"({detail})"
    )


@contextmanager
def rejecting_configuration() -> Iterator[None]:
    """Raise RejectedConfiguration for a ConfigError of what is made inside, unless the data are its cause."""
    try:
        yield
    except (DataError, RejectedConfiguration):
        raise
    except ConfigError as error:
        raise RejectedConfiguration(str(error)) from error


def is_configuration_failure(record: Mapping[str, Any]) -> bool:
    """Whether a run with this run.json failed because of its own configuration."""
    return record.get("status") == "failed" and record.get("failure", "outside") != "outside"
