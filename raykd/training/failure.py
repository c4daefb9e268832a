"""The failure policy: what an error means for a run, whether and where the run is retried, and what the user reads.

    decision = decide_job(error, gpus=0.5)          a job of a plan's queue
    decision = decide_trial(error, gpus=0.5)        a trial of a search

                                                    job                         trial
    interrupted                                     next command                next command
    locked by another command                       later                       next command
    lost GPU; several workers: a foreign error      another process             another process; by the trainer
    out of memory on a shared GPU                   later, then another GPU     another process, then failed
    otherwise out of memory, unusable GPU           another GPU, then failed    failed; next command
    diverged, rejected, an error in the code        failed                      failed
    anything else outside of the configuration      failed                      next command

A configuration that fails is a result of a search. A command that is rerun trains the failed runs of a plan again.

Everybody else carries out a Decision: the worker of a slot (orchestration/worker.py) and the queue (run_queue.py), or
the process of a trial (trial.py). Ray replaces a worker that died: killed for its memory, or lost with its node. The
replacement receives the same run and resumes it from its checkpoint. raykd's errors have their kind in their class. The
texts of errors of other libraries are searched, because many raise RuntimeError for everything.

Nothing here imports torch, because the controller of every trainer imports this module and would wait for it.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from safetensors import SafetensorError

from raykd.config.custom_file import user_line_of
from raykd.data.dataset_names import is_packable
from raykd.errors import (
    RESUME,
    CodeFailed,
    ConfigError,
    DataError,
    Failure,
    Interrupted,
    OutOfMemory,
    RaykdError,
    RejectedConfiguration,
    RunDiverged,
    RunFailed,
    RunLocked,
    is_environment_error,
    one_line,
    reason_of,
)

if TYPE_CHECKING:
    from raykd.spec.experiment import Data
    from raykd.spec.plan import Run

MAX_ATTEMPTS = 3  # a run whose workers died three times has failed
MAX_FAILURES = MAX_ATTEMPTS - 1  # for Ray, which counts the failures of a trial before its last attempt


def max_failures_of_slot(num_jobs: int) -> int:
    """Return how many of its workers a slot's trainer may lose: enough for each job to use up its attempts."""
    return MAX_ATTEMPTS * num_jobs


# ---- Kinds of errors ----

# After these errors a process can no longer use its GPU, or communicate with the other workers of its run.
LOST_GPU = ("CUDA error", "CUBLAS_STATUS", "CUDNN_STATUS", "cuDNN error", "Triton Error", "NCCL")
# Errors in LOST_GPU that the same operation would cause again: an index out of range, unsupported shapes or types.
_REPEATED = ("device-side assert triggered", "STATUS_NOT_SUPPORTED", "STATUS_INVALID_VALUE", "STATUS_BAD_PARAM")
_NO_MEMORY = ("out of memory", "allocate memory")  # CUDA, torch's CPU allocator, the operating system
# Text of I/O errors from libraries that do not raise OSError: safetensors (Rust), and torch for mapped files.
_IO_TEXT = ("os error", "no space left", "disk quota", "input/output error", "stale file handle", "unable to open file")
# The dynamic linker's text for a file that an interrupted compilation has left in a cache of torch.compile or Triton.
_HALF_COMPILED = re.compile(r"(/[^\n]*\.so): (file too short|invalid ELF header|cannot read file data)")
_ERRORS = (RunDiverged, RejectedConfiguration, OutOfMemory, CodeFailed, RunFailed)  # one for each kind of failure


class UnusableGpu(ConfigError):
    """torch cannot use the GPU that Ray assigned to a run."""


class CaptureFailed(RejectedConfiguration):
    """A training step that cannot be captured as a CUDA graph. It would fail again with the same configuration.

    Many versions of torch do not end such a capture: their allocator and generator remain in it, so that `empty_cache`
    and dropout raise internal errors for as long as the process lives (github.com/pytorch/pytorch/pull/190308).
    """


class ProcessLostGpu(RunFailed):
    """An earlier trial of this process lost the GPU. Another process can train the trial."""


def classify_failure(error: BaseException) -> Failure:
    """Return the kind of failure of a run that ends with `error`."""
    if _is_named(error, "ray", "RayError"):  # first: Ray derives errors of remote calls from the class of their cause
        return "outside"
    if isinstance(error, RaykdError):
        return error.failure
    if loses_gpu(error):
        return "code" if any(part in str(error) for part in _REPEATED) else "outside"
    text = str(error).lower()
    if isinstance(error, MemoryError) or _is_cuda_memory(error) or any(part in text for part in _NO_MEMORY):
        return "out of memory"
    is_outside = isinstance(error, OSError | SafetensorError) or any(part in text for part in _IO_TEXT)
    return "outside" if is_outside else "code"


def loses_gpu(error: BaseException) -> bool:
    """Return whether this process cannot use its GPU after `error`."""
    if isinstance(error, RaykdError):
        return isinstance(error, CaptureFailed | ProcessLostGpu)
    return any(part in str(error) for part in LOST_GPU)


def is_cause(error: BaseException, workers: int) -> bool:
    """Return whether `error` is certainly why a run of `workers` failed.

    To the other workers of a run, the loss of one looks like an error of torch.
    """
    return workers == 1 or isinstance(error, RaykdError)


def recorded_error(failure: Failure | None, reason: str | None) -> RaykdError:
    """Return the failure that run.json records as an error of the same kind. None: the file has no kind or reason."""
    kind = next(error for error in _ERRORS if error.failure == (failure or "outside"))
    return kind(reason or "no reason recorded")


def _may_pass_on_another_gpu(error: BaseException, gpus: float) -> bool:
    """Return whether a run with `gpus` GPUs may succeed on another one.

    This GPU is not usable, is lost, or has no memory for the run, which another program may occupy.
    """
    failure = classify_failure(error)
    is_lost = loses_gpu(error) and failure == "outside"
    return gpus > 0 and (isinstance(error, UnusableGpu) or is_lost or failure == "out of memory")


def _is_cuda_memory(error: BaseException) -> bool:
    return _is_named(error, "torch", "OutOfMemoryError")


def _is_named(error: BaseException, package: str, name: str) -> bool:
    """Return whether `error` has a class of this name in a package that this module does not import."""
    classes = type(error).__mro__
    return any(cls.__name__ == name and cls.__module__.partition(".")[0] == package for cls in classes)


# ---- Decisions ----

Retry = Literal["no", "later", "another process", "next command"]


@dataclass(frozen=True)
class Decision:
    """What follows from an error.

    failure: None if the run has not failed: it was interrupted, or another command has locked it.
    reason: what the user reads.
    retry: 'no': it has failed. 'later': it returns to the queue, and any worker does it after the jobs that are ready.
    'another process': it is resumed by the replacement of this process. 'next command': it stays unfinished until the
    same command is rerun.
    ends_process: this process can do nothing else, because its GPU is lost or other workers wait for it.
    blames_gpu: another GPU may do the job. One tries it once no other retry is left.
    """

    failure: Failure | None
    reason: str
    retry: Retry
    ends_process: bool = False
    blames_gpu: bool = False


def decide_job(error: Exception, gpus: float, workers: int = 1, was_out_of_memory: bool = False) -> Decision:
    """Decide about a job of the queue. gpus: of each of its `workers`, a fraction if others share the GPU.

    was_out_of_memory: whether this process has retried the job for that reason before.
    """
    if isinstance(error, RunLocked):
        return Decision(None, str(error), "later")
    if isinstance(error, Interrupted):
        return Decision(None, str(error), "next command")
    failure, is_lost, reason = classify_failure(error), loses_gpu(error), job_reason(error)
    blames_gpu = workers == 1 and _may_pass_on_another_gpu(error, gpus)
    if not is_cause(error, workers) or (is_lost and failure == "outside"):
        return Decision(failure, reason, "another process", ends_process=True, blames_gpu=blames_gpu)
    # Another run on this GPU may have used the memory.
    if workers == 1 and failure == "out of memory" and _is_shared(gpus) and not was_out_of_memory:
        return Decision(failure, reason, "later", blames_gpu=blames_gpu)
    return Decision(failure, reason, "no", ends_process=is_lost or workers > 1, blames_gpu=blames_gpu)


def decide_trial(error: Exception, gpus: float, workers: int = 1, is_last_attempt: bool = False) -> Decision:
    """Decide about a trial of a search. gpus: of each of its `workers`, a fraction if others share the GPU.

    Another process may have the GPU that this one has lost, or find memory on a GPU that the trial shares: other trials
    may have used that memory, and a failed trial would mislead the search. The process of a trial with several workers
    has no GPU; its trainer has replaced the workers.
    """
    if isinstance(error, Interrupted):
        return Decision(None, str(error), "next command")
    failure, is_lost = classify_failure(error), workers == 1 and loses_gpu(error)
    may_pass = (is_lost and failure == "outside") or (failure == "out of memory" and _is_shared(gpus))
    is_result = failure != "outside"
    retry: Retry = "another process" if may_pass and not is_last_attempt else "no" if is_result else "next command"
    return Decision(failure, one_line_reason(error), retry, ends_process=is_lost)


def _is_shared(gpus: float) -> bool:
    return 0 < gpus < 1


# ---- What the user reads ----


def job_reason(error: Exception) -> str:
    """Return why a job failed: in one line for a full disk, missing permissions or memory, else with a traceback."""
    if isinstance(error, RaykdError):
        return str(error)
    if is_environment_error(error):
        return f"{_at_user_line(error)}{error}; {RESUME}"
    if classify_failure(error) == "out of memory":
        remedy = "use a GPU with more memory, or let fewer runs share it (workers.gpus)"
        return f"out of memory ({_memory_detail(error)}): {remedy}; then rerun the same command"
    return f"{_at_user_line(error)}{type(error).__name__}: {error}\n{''.join(traceback.format_exception(error))}"


def one_line_reason(error: BaseException) -> str:
    """Return the first line of an error of raykd; of another error also its type, and the line of the user's file."""
    if isinstance(error, RaykdError):
        return (str(error).splitlines() or ["no reason given"])[0]
    return f"{_at_user_line(error)}{reason_of(error)}"


def recorded_reason(error: BaseException) -> str:
    """Return the reason for run.json: of an error in a user's file with its type and the line."""
    at = "" if isinstance(error, RaykdError) else _at_user_line(error)
    return f"{at}{type(error).__name__}: {error}" if at else f"{error}" or type(error).__name__


def _at_user_line(error: BaseException) -> str:
    line = user_line_of(error)
    return f"{line}: " if line else ""


def give_up_reason(attempts: int, reported: str) -> str:
    """Return why a run is not retried again. reported: what one of its workers reported before it died, or ''."""
    reason = f"its worker died {attempts} times; out of memory, or see the Ray worker's log"
    return f"{reason}; one worker reported: {reported}" if reported else reason


@contextmanager
def explaining_step(run: Run) -> Iterator[None]:
    """Raise errors of a training step that the recipe can avoid again, as one line with a remedy.

    An out-of-memory error on a GPU becomes OutOfMemory, the limit of torch.compile RejectedConfiguration, and a file
    that was compiled in part RunFailed. No variable of this frame refers to the error that it raises, since the cycle
    would keep all tensors of the run.
    """
    try:
        yield
    except Exception as error:
        if _is_cuda_memory(error):
            # From Python 3.12 on, this traceback is part of a cycle through contextlib, which would keep all tensors.
            raise OutOfMemory(_memory_message(run, error.with_traceback(None))) from error
        if _is_named(error, "torch", "FailOnRecompileLimitHit"):
            raise RejectedConfiguration(
                f"{run.role}.compile = true: torch compiled the training step anew too often, because its operations "
                f"differ between steps; set {run.role}.compile=false"
            ) from error
        if found := _HALF_COMPILED.search(str(error)):
            raise RunFailed(
                f"a compiled file cannot be loaded ({found[2]}), because the process that wrote it was killed; remove "
                f"'{found[1]}' and rerun the same command"
            ) from error
        raise


@contextmanager
def explaining_teacher(run: Run) -> Iterator[None]:
    """Raise OutOfMemory, with a remedy, if the network or the whole logit cache of the teacher does not fit."""
    try:
        yield
    except Exception as error:
        if not _is_cuda_memory(error):
            raise
        raise OutOfMemory(
            f"out of memory while the teacher of {run.name} is loaded: use a GPU with more memory, or raise "
            f"workers.gpus so that fewer runs share one ({reason_of(error)})"
        ) from error


@contextmanager
def explaining_images(data: Data) -> Iterator[None]:
    """Raise OutOfMemory, with a remedy, if the images in memory do not fit on the GPU, which then holds all of them."""
    try:
        yield
    except Exception as error:
        if not _is_cuda_memory(error):
            raise
        to_disk = "set data.storage=disk to decode them in each step, " if is_packable(data.name) else ""
        raise OutOfMemory(
            f"out of memory while the images of {data.name} are copied to the GPU: {to_disk}use a GPU with more "
            f"memory, or raise workers.gpus so that fewer runs share one ({reason_of(error)})"
        ) from error


@contextmanager
def rejecting_configuration() -> Iterator[None]:
    """Turn a ConfigError raised inside into RejectedConfiguration, unless the data set caused it."""
    try:
        yield
    except (DataError, RejectedConfiguration):
        raise
    except ConfigError as error:
        raise RejectedConfiguration(str(error)) from error


def _memory_message(run: Run, error: BaseException) -> str:
    """Return one line for an out-of-memory error in the training of `run`, with fields that reduce memory."""
    role, recipe = run.role, run.recipe
    use_bf16 = "" if recipe.precision in ("bf16", "fp16") else f", set {role}.precision=bf16"
    return (
        f"out of memory with {role}.batch_size = {recipe.batch_size}: lower it{use_bf16}, raise "
        f"{role}.gradient_accumulation from {recipe.gradient_accumulation}, or use a GPU with more memory "
        f"({_memory_detail(error)})"
    )


def _memory_detail(error: BaseException) -> str:
    """Return the first two sentences of an out-of-memory error: what was tried, and how much memory there is."""
    return ". ".join(one_line(str(error)).split(". ")[:2]).rstrip(".") or type(error).__name__
