"""Tests of the loop on a GPU: each precision trains, stops, resumes and rounds as it should, without waiting."""

import threading
from pathlib import Path
from typing import Any
from unittest import mock

import children
import pytest
import torch
from small_runs import digits, recipe, run_of, teacher_of
from torch.amp.grad_scaler import GradScaler

from raykd.errors import Interrupted
from raykd.methods import KD, FeatureKD
from raykd.spec.plan import Run
from raykd.spec.recipe import SGD, AdamW
from raykd.store.run_folder import RunFolder
from raykd.training.compute import Compute, release_memory
from raykd.training.failure import CaptureFailed
from raykd.training.hooks import EpochReport, Hooks
from raykd.training.loop import fit
from raykd.training.teacher.sources import LiveTeacher
from raykd.training.training_step import make_train_state

PRECISIONS: tuple[Any, ...] = ("fp32", "tf32", "bf16", "fp16")
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def train(run: Run, folder: RunFolder, device: str, **hooks: Any) -> list[EpochReport]:
    reports: list[EpochReport] = []
    teacher = teacher_of(run)
    if isinstance(teacher, LiveTeacher):
        teacher.model.to(device)
    fit(run, digits(), folder, torch.device(device), teacher, Hooks(reports.append, **hooks))
    return reports


@pytest.fixture(params=PRECISIONS)
def precision(request: pytest.FixtureRequest) -> Any:
    """Each precision that this GPU supports."""
    if request.param in ("tf32", "bf16") and torch.cuda.get_device_capability() < (8, 0):
        pytest.skip(f"this GPU has no {request.param}")
    return request.param


def test_run_on_a_gpu_is_stopped_and_resumes(precision: Any, run_folder: RunFolder) -> None:
    run = run_of("distilled", method=FeatureKD(), student=recipe(precision=precision))
    left = iter([False] * 5 + [True])
    with pytest.raises(Interrupted):
        train(run, run_folder, "cuda", should_stop=lambda: next(left), checkpoint_every_s=0)
    assert [report.epoch for report in train(run, run_folder, "cuda")] == [1, 2]
    assert run_folder.status() == "done" and run_folder.require_record().hardware["gpu"]


def test_first_epochs_losses_are_the_cpus(run_folder: RunFolder, tmp_path: Any) -> None:
    run = run_of("distilled", method=FeatureKD())
    on_gpu, on_cpu = train(run, run_folder, "cuda")[0], train(run, RunFolder(tmp_path / "cpu"), "cpu")[0]
    assert on_gpu.terms == pytest.approx(on_cpu.terms, rel=1e-3)  # the recipe is in fp32, without TF32


def test_products_and_convolutions_have_the_error_of_the_precision(precision: Any) -> None:
    """The relative error of a product of many random numbers lies between those of float32 and of 8 or 11 bits.

    cuDNN's Winograd kernels, which an earlier test's autotuning may have chosen, add to the error of float32. In tf32
    cuDNN may also choose a float32 kernel, if that is the fastest.
    """
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(64, 4096, generator=generator) for _ in range(2))
    images, filters = torch.randn(8, 64, 16, 16, generator=generator), torch.randn(64, 64, 3, 3, generator=generator)
    with Compute(torch.device("cuda"), precision, 1).autocast():
        product = left.cuda() @ right.cuda().T
        convolved = torch.nn.functional.conv2d(images.cuda(), filters.cuda())
    exact = left.double() @ right.double().T, torch.nn.functional.conv2d(images.double(), filters.double())
    errors = [
        float((found.cpu().double() - expected).norm() / expected.norm())
        for found, expected in zip((product, convolved), exact, strict=True)
    ]
    assert all(error < (5e-5 if precision == "fp32" else 1e-2) for error in errors)
    assert precision == "fp32" or errors[0] > 5e-5
    assert precision in ("fp32", "tf32") or errors[1] > 5e-5


@pytest.mark.parametrize("optimizer", [SGD(lr=0.05), AdamW(lr=1e-3)], ids=lambda optimizer: optimizer.kind)
def test_fp16_step_never_waits_for_the_gpu_and_skips_infinite_gradients(optimizer: Any) -> None:
    run, device = run_of("baseline", student=recipe(precision="fp16", optimizer=optimizer, step="eager")), "cuda"
    training = make_train_state(run, digits(), Compute(torch.device(device), "fp16", 1), teacher_of(run))
    training.scaler = GradScaler(device, init_scale=2.0**60)
    batches, before = list(training.loader.epoch(0)), [weight.clone() for weight in training.objective.parameters()]
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in batches:
            training.step(batch, training.term_weights(0))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert training.scaler.get_scale() == 2.0 ** (60 - len(batches))
    assert all(torch.equal(*pair) for pair in zip(training.objective.parameters(), before, strict=True))


def test_fp16_run_as_a_graph_has_the_losses_of_eager_steps(tmp_path: Any) -> None:
    losses = []
    for step in ("eager", "graph"):
        run = run_of("distilled", student=recipe(precision="fp16", step=step))
        reports = train(run, RunFolder(tmp_path / step), "cuda")
        losses.append([report.terms["loss"] for report in reports])
        assert ("one CUDA graph per step" in reports[0].compute) == (step == "graph")
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)


def test_runs_of_threads_one_after_another_are_captured_as_graphs(tmp_path: Any) -> None:
    """Tune runs each trial of a worker in a new thread."""
    reports: list[EpochReport] = []
    for number in range(2):
        run = run_of("distilled", student=recipe(step="graph"))
        folder = RunFolder(tmp_path / f"{number}")
        thread = threading.Thread(target=lambda run=run, folder=folder: reports.extend(train(run, folder, "cuda")))
        thread.start()
        thread.join()
    assert len(reports) == 6 and all("one CUDA graph per step" in report.compute for report in reports)


def test_a_compiled_step_is_captured_and_has_the_losses_of_an_eager_one(tmp_path: Any) -> None:
    losses = []
    for compiled in (False, True):
        run = run_of("distilled", student=recipe(compile=compiled, step="graph"))
        losses.append([report.terms["loss"] for report in train(run, RunFolder(tmp_path / f"{compiled}"), "cuda")])
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)


def reason_of_a_failed_capture(folder: Path) -> str:
    """Train a run whose step reads a number from the GPU, and return why it failed."""
    terms = KD.terms

    def reading_terms(*inputs: Any) -> dict[str, torch.Tensor]:
        result = terms(*inputs)
        result["kd"].item()
        return result

    with mock.patch.object(KD, "terms", reading_terms):
        try:
            train(run_of("distilled"), RunFolder(folder), "cuda")
        except CaptureFailed as error:
            release_memory()  # must not raise
            return str(error)
    return ""


def test_a_failed_capture_names_the_first_error_and_the_remedy(tmp_path: Path) -> None:
    """In a child process, which cannot use the GPU afterward."""
    with children.context().Pool(1, maxtasksperchild=1) as pool:
        reason = pool.apply(reason_of_a_failed_capture, (tmp_path / "run",))
    assert "cannot be captured" in reason and "--set student.step=eager" in reason
    assert "previous error" not in reason
