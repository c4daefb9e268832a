"""Steps whose inputs all lie on the device, as a CUDA graph requires, give the bits of steps launched from Python."""

import gc
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from all_methods import all_methods
from nightly import nightly_except, nightly_unless
from resume_cases import CASES, outcome, run_of_case
from small_runs import CPU, digits, recipe, run_of, train
from torch import Tensor, nn

from raykd.data.augmentation import Augmentation
from raykd.errors import Interrupted, RejectedConfiguration
from raykd.methods import KD, Method
from raykd.models.vit_cifar import ViT
from raykd.spec.plan import Run
from raykd.spec.recipe import AdamW
from raykd.store.run_folder import RunFolder
from raykd.training import cuda_graph, training_step
from raykd.training.compute import choose_compute, why_not_graph
from raykd.training.cuda_graph import WARM_UP_STEPS, DeviceSteps
from raykd.training.failure import CaptureFailed, classify_failure, loses_gpu
from raykd.training.teacher.sources import no_teacher
from raykd.training.training_step import make_train_state

QUICK_RECIPES = (
    "vit, adamw, dropout",
    "everything augmented",
    "vit of timm, stochastic depth, erasing, repeats, adamw",
    "averaged, accumulated, balanced",
    "temperature by progress, adamw",
    "self-distillation without a teacher",
    "adapter with its own learning rates, adamw",
    "memory inside an adapter, accumulated",
    "resnet, fp16, clipping, averaged, accumulated",
)
GPU = replace(choose_compute(CPU, "fp32"), device=torch.device("cuda"))


def _run_by(method: Method) -> Run:
    vit = ViT(depth=2, width=24, heads=2, patch=2, distillation_token=method.needs_distillation_token)
    student = recipe(model=vit) if method.needs_distillation_token else recipe()
    stage = "distilled" if method.needs else "baseline"
    return run_of(stage, method=method if method.needs else KD(), student=student)


def _use_device_steps(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(training_step, "why_not_graph", lambda *_: "")


def _outcomes(run: Run, folder: Path, patch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Return what comes of the run by steps from Python, and by steps on the device."""
    train(run, RunFolder(folder / "python"))
    _use_device_steps(patch)
    taken = []
    launch = cuda_graph.DeviceSteps._launch
    patch.setattr(cuda_graph.DeviceSteps, "_launch", lambda self: taken.append(launch(self)))
    train(run, RunFolder(folder / "device"))
    assert taken
    return [outcome(folder / name) for name in ("python", "device")]


@pytest.mark.parametrize(
    "method", nightly_unless(lambda method: method.kind in ("kd", "crd"), all_methods()), ids=lambda method: method.kind
)
def test_every_method_trains_to_the_same_bits(method: Method, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python, device = _outcomes(_run_by(method), tmp_path, monkeypatch)
    assert python == device


@pytest.mark.parametrize("case", nightly_except(QUICK_RECIPES, CASES))
def test_every_recipe_trains_to_the_same_bits(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python, device = _outcomes(run_of_case(case), tmp_path, monkeypatch)
    assert python == device


def test_run_stopped_at_any_step_resumes_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of("distilled", student=recipe(optimizer=AdamW(lr=3e-3)))
    train(run, RunFolder(tmp_path / "whole"))
    _use_device_steps(monkeypatch)
    for num_steps in (2, 2, 1, 3):
        left = iter([False] * (num_steps - 1) + [True])
        with pytest.raises(Interrupted):
            train(run, RunFolder(tmp_path / "stopped"), should_stop=lambda left=left: next(left))
    train(run, RunFolder(tmp_path / "stopped"))
    assert outcome(tmp_path / "whole") == outcome(tmp_path / "stopped")


@pytest.mark.parametrize(
    ("changes", "compute", "num_workers", "reason"),
    [
        ({}, GPU, 1, ""),
        ({"step": "graph"}, GPU, 1, ""),
        ({"step": "eager"}, GPU, 1, "disabled by step=eager"),
        ({}, choose_compute(CPU, "fp32"), 1, "require a GPU"),
        ({}, GPU, 2, "several workers"),
        ({"augmentation": Augmentation(randaugment=(2, 9))}, GPU, 1, "RandAugment"),
    ],
)
def test_a_step_is_captured_if_all_steps_do_the_same_work(
    changes: dict[str, Any], compute: Any, num_workers: int, reason: str
) -> None:
    found = why_not_graph(run_of("baseline", student=recipe(**changes)), compute, num_workers)
    assert reason in found if reason else not found


def test_a_run_that_cannot_use_the_requested_graph_reports_why(tmp_path: Path) -> None:
    asked, usual = (
        train(run_of("baseline", student=recipe(epochs=1, step=step)), RunFolder(tmp_path / step))[0].compute
        for step in ("graph", "auto")
    )
    assert asked.endswith(", no CUDA graph: CUDA graphs require a GPU") and "graph" not in usual


@contextmanager
def _graph(*_: object, **__: object) -> Iterator[None]:
    """Do what torch.cuda.graph does after an invalid operation: raise another error at the end of the capture."""
    try:
        yield
    finally:
        raise RuntimeError("CUDA error: operation failed due to a previous error during capture")


def _capture(error: Exception, patch: pytest.MonkeyPatch, graph: Any = _graph) -> None:
    """Capture a step that raises `error`, without a GPU."""
    patch.setattr(torch.cuda, "graph", graph)
    patch.setattr(torch.cuda, "CUDAGraph", object)
    run = run_of("baseline")
    steps = DeviceSteps(make_train_state(run, digits(), choose_compute(CPU, "fp32"), no_teacher))

    def launch() -> None:
        raise error

    patch.setattr(steps, "_launch", launch)
    steps._capture()


def test_a_failed_capture_names_the_first_error_rejects_the_run_and_ends_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(
        CaptureFailed, match=r"not permitted when stream is capturing\); use --set student.step=eager"
    ) as raised:
        _capture(RuntimeError("CUDA error: operation not permitted when stream is capturing"), monkeypatch)
    assert classify_failure(raised.value) == "rejected" and loses_gpu(raised.value)


@pytest.mark.parametrize("graph", [_graph, lambda *_, **__: nullcontext()], ids=["its end fails too", "it is ended"])
def test_a_capture_without_enough_memory_is_out_of_memory(graph: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(torch.OutOfMemoryError) as raised:
        _capture(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), monkeypatch, graph)
    assert classify_failure(raised.value) == "out of memory" and not loses_gpu(raised.value)


class _Counting(nn.Module):
    """Counts its calls, and draws a random number in each."""

    def __init__(self, draw: Callable[[], object], increment: int) -> None:
        super().__init__()
        self.draw, self.increment, self.calls, self.is_used = draw, increment, 0, False

    def forward(self, images: Tensor) -> Tensor:
        self.calls, self.is_used = self.calls + self.increment, True
        self.draw()
        return images


def _warm_up_and_capture(run: Run, layer: nn.Module, patch: pytest.MonkeyPatch) -> None:
    """Take the steps of an epoch as on a GPU; a replay of the graph does nothing."""
    training = make_train_state(run, digits(), choose_compute(CPU, "fp32"), no_teacher)
    training.objective.student.network.register_forward_pre_hook(lambda _, inputs: layer(*inputs))
    training.objective.student.network.layer = layer
    steps = DeviceSteps(training)
    patch.setattr(steps, "_captures", True)
    patch.setattr(steps, "_launch_on_side_stream", steps._launch)
    patch.setattr(steps, "_capture", lambda: SimpleNamespace(replay=lambda: None))
    steps.start_epoch(0, 0)
    for step in range(WARM_UP_STEPS + 1):
        steps.run_step(step)


@pytest.mark.parametrize(
    ("layer", "changed"),
    [
        (_Counting(lambda: None, 1), "'student.network.layer.calls'"),
        (_Counting(random.random, 0), "Python's generator"),
        (_Counting(lambda: torch.rand(1), 0), "torch's generator on the CPU"),
        (_Counting(np.random.rand, 0), "NumPy's generator"),
    ],
    ids=["counter", "random", "torch", "numpy"],
)
def test_a_step_that_changes_values_of_the_host_is_not_captured_unless_requested(
    layer: nn.Module, changed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RejectedConfiguration, match=f"each training step changes .*{changed}.*student.step=eager"):
        _warm_up_and_capture(run_of("baseline"), layer, monkeypatch)
    _warm_up_and_capture(run_of("baseline", student=recipe(step="graph")), layer, monkeypatch)


def test_values_that_only_the_first_step_sets_do_not_prevent_a_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    _warm_up_and_capture(run_of("baseline"), _Counting(lambda: None, 0), monkeypatch)


def test_all_runs_of_a_process_are_captured_on_one_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Stream", lambda _: object())
    streams = [cuda_graph.capture_stream.__wrapped__(GPU.device), *map(cuda_graph.capture_stream, [GPU.device] * 2)]
    cuda_graph.capture_stream.cache_clear()
    assert streams[0] is not streams[1] is streams[2]


def test_no_garbage_is_collected_during_a_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "graph", lambda *_, **__: nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    steps = DeviceSteps(make_train_state(run_of("baseline"), digits(), choose_compute(CPU, "fp32"), no_teacher))
    was_enabled = []
    monkeypatch.setattr(steps, "_launch", lambda: was_enabled.append(gc.isenabled()))
    steps._capture()
    assert was_enabled == [False] and gc.isenabled()
