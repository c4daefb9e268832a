"""How a trial ends whose process cannot use the GPU afterward."""

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from raykd.errors import RunFailed
from raykd.training.failure import CaptureFailed

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
    shared: Any = SimpleNamespace(workers=1, gpus=0.0, stop=SimpleNamespace(is_set=SimpleNamespace(remote=None)))

    def fail(error: Exception, gpus: float = 0.0) -> dict[str, Any]:
        shared.gpus = gpus

        def train_trial(*_: object) -> None:
            raise error

        monkeypatch.setattr(trial, "train_trial", train_trial)
        trial.run_trial({}, shared)
        return reported.pop()

    return fail


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RunFailed("out of memory with batch")])
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
