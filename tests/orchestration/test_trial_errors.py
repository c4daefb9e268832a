"""How a trial ends after errors that another process may not have, such as a lost GPU."""

import os
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from raykd.errors import OutOfMemory, RunFailed
from raykd.orchestration.parallel_runs import Slots
from raykd.training.failure import MAX_FAILURES, CaptureFailed

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray")]

CAPTURE = CaptureFailed("its training step cannot be captured as a CUDA graph; use --set student.step=eager")


@pytest.fixture
def fails(cluster: str, monkeypatch: pytest.MonkeyPatch):
    """Return a function that runs a trial which raises the given error, and returns what it reported to Tune."""
    from raykd.orchestration import trial  # here: it imports Ray, which `cluster` must do first

    reported: list[dict[str, Any]] = []
    monkeypatch.setattr(trial, "_lost_gpu", [])
    monkeypatch.setattr(trial, "StopPoller", lambda _: nullcontext(SimpleNamespace(should_stop=lambda: False)))
    monkeypatch.setattr(trial.tune, "report", reported.append)
    stop = SimpleNamespace(is_set=SimpleNamespace(remote=None))
    shared: Any = SimpleNamespace(slots=None, stop=stop, environment={"RAY_TRAIN_OF_THE_DRIVER": "0.2"})
    monkeypatch.delenv("RAY_TRAIN_OF_THE_DRIVER", raising=False)

    def fail(error: Exception, gpus: float = 0.0, failures: int = 0, workers: int = 1) -> dict[str, Any]:
        shared.slots = Slots(1, 1, gpus, workers)

        def train_trial(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr(trial, "train_trial", train_trial)
        monkeypatch.setattr(trial, "train_with_workers", train_trial)
        trial.run_trial({"failures": failures}, shared)
        return reported.pop()

    return fail


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), OutOfMemory("out of memory with batch")]
)
def test_a_trial_out_of_memory_on_a_shared_gpu_is_tried_again_and_on_its_own_gpu_has_failed(error, fails) -> None:
    with pytest.raises(type(error), match="out of memory"):
        fails(error, gpus=0.25)
    assert "out of memory" in fails(error, gpus=1.0)["failed"]


@pytest.mark.parametrize("error", [CAPTURE, RuntimeError("CUDA error: device-side assert triggered")])
def test_a_failure_of_the_configuration_is_the_trials_result_and_ends_the_process(error: Exception, fails) -> None:
    result = fails(error)
    assert result["done"] and str(error) in result["failed"] and "outside" not in result
    with pytest.raises(RunFailed, match="an earlier trial of this process lost the GPU"):
        fails(error)


def test_a_gpu_lost_for_another_reason_is_no_result(fails) -> None:
    error = RuntimeError("CUDA error: an illegal memory access was encountered")
    with pytest.raises(RuntimeError, match="illegal memory access"):
        fails(error)
    assert "a mistake in the code" in fails(ValueError("a mistake in the code"))["failed"]


LOST = RuntimeError("CUDA error: uncorrectable ECC error encountered")


def test_the_last_process_that_loses_its_gpu_leaves_the_trial_unfinished_with_the_reason(fails) -> None:
    """Tune would record it as failed, and one broken GPU would use up the trials of a search."""
    for failures in range(MAX_FAILURES):
        with pytest.raises(RuntimeError, match="uncorrectable ECC"):
            fails(LOST, gpus=1.0, failures=failures)
    result = fails(LOST, gpus=1.0, failures=MAX_FAILURES)
    assert result["interrupted"] and result["done"] and "uncorrectable ECC" in result["outside"]
    with pytest.raises(RunFailed, match="an earlier trial of this process lost the GPU"):
        fails(LOST, gpus=1.0)
    assert "an earlier trial of this process" in fails(LOST, gpus=1.0, failures=MAX_FAILURES)["outside"]


def test_the_last_process_without_memory_on_a_shared_gpu_reports_that_the_trial_failed(fails) -> None:
    result = fails(torch.OutOfMemoryError("CUDA out of memory"), gpus=0.25, failures=MAX_FAILURES)
    assert "CUDA out of memory" in result["failed"]


def test_the_process_of_a_trial_with_several_workers_is_not_replaced_for_a_gpu_that_a_worker_lost(fails) -> None:
    """The process has no GPU, and the trainer has replaced the workers."""
    assert "uncorrectable ECC" in fails(LOST, gpus=1.0, workers=2)["outside"]
    assert "a mistake" in fails(ValueError("a mistake"), gpus=1.0, workers=2)["failed"]


def test_trials_have_the_drivers_settings_of_ray_train(fails) -> None:
    """A trial's process reads them for its trainer, and Ray starts it without them on another node."""
    from raykd.orchestration.trial import train_variables

    fails(ValueError("a mistake"))
    assert train_variables(os.environ)["RAY_TRAIN_OF_THE_DRIVER"] == "0.2"
    assert train_variables({"RAY_TRAIN_X": "1", "RAY_ADDRESS": "h:1", "TUNE_X": "2"}) == {"RAY_TRAIN_X": "1"}
