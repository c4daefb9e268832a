"""Batches that a device has no memory for are halved until they fit, and the size is remembered."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_runs import CPU, WIDTH, digits, recipe, run_of
from torch import Tensor

from raykd import models
from raykd.errors import RunFailed
from raykd.models import ImageModel
from raykd.models.four_stage_resnet import ResNet
from raykd.outputs import Outputs
from raykd.store.run_folder import RunFolder
from raykd.store.run_store import RunStore
from raykd.training import latency
from raykd.training.compute import EVALUATION_BATCH, choose_compute
from raykd.training.evaluate import evaluate
from raykd.training.failure import classify_failure
from raykd.training.inference_batch import batches_that_fit, with_largest_batch_size
from raykd.training.latency import throughput
from raykd.training.metrics import compute_metrics
from raykd.training.model_file import images_of
from raykd.training.teacher.cache import LogitCache
from raykd.training.teacher.choose import PlannedCache
from raykd.training.teacher.fill import BATCH_SIZE, FIXED_SHAPE, IN_FLIGHT, Filler
from raykd.training.train_one import Observers, train_one

COMPUTE = choose_compute(CPU, "fp32")
NO_MEMORY = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB. See documentation"


class Small(ImageModel):
    """A network on a device that has memory for `room` images at a time. sizes: of all batches that were tried."""

    def __init__(self, room: int, seed: int = 5) -> None:
        made = models.build(ResNet(blocks=(1, 1, 1, 1), width=WIDTH), images_of(digits()), seed)
        super().__init__(made.network, made._run_network, images_of(digits()))
        self.room, self.sizes = room, list[int]()

    def forward(self, images: Tensor) -> Outputs:
        self.sizes.append(len(images))
        if len(images) > self.room:
            raise torch.OutOfMemoryError(NO_MEMORY)
        return super().forward(images)


@pytest.fixture
def emptied(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """An entry for each time that the CUDA cache was emptied: whether no error was being handled then."""
    found: list[bool] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: found.append(sys.exc_info()[0] is None))
    return found


def test_a_batch_is_halved_until_it_fits_and_the_size_is_remembered(emptied: list[bool]) -> None:
    network = Small(room=100)
    images = digits().test.images
    parts = [part for part, _ in batches_that_fit(network, 597, 512, lambda part: network(images[part]))]
    assert network.sizes == [512, 256, 128, 64] + 8 * [64] + [21]
    assert [(part.start, part.stop) for part in parts] == [(start, min(start + 64, 597)) for start in range(0, 597, 64)]
    assert emptied == [True] * 3, "the tensors of the batch that failed are only free once its error is handled"
    assert [with_largest_batch_size(network, max_size, lambda size: size) for max_size in (512, 32)] == [64, 32]
    assert with_largest_batch_size(Small(room=100), 512, lambda size: size) == 512, "limits are per network"


def test_evaluation_in_halved_batches_is_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EVALUATION_BATCH, "cpu", 64)
    expected = evaluate(Small(room=64), digits().test, COMPUTE)
    measured = compute_metrics(Small(room=64), digits().test, COMPUTE, 10, Small(room=64, seed=6))
    monkeypatch.setitem(EVALUATION_BATCH, "cpu", 512)
    model = Small(room=100)
    assert evaluate(model, digits().test, COMPUTE) == expected and max(model.sizes) == 512
    teacher = Small(room=100, seed=6)
    assert (
        compute_metrics(Small(room=512), digits().test, COMPUTE, 10, teacher) == measured and max(teacher.sizes) == 512
    )


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.nightly
def test_filling_in_halved_batches_is_equal(
    fixed: bool, depth: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FIXED_SHAPE, "cpu", fixed)
    monkeypatch.setitem(IN_FLIGHT, "cpu", depth)
    run = run_of("distilled")
    wanted = PlannedCache(run.teachers, run.data, "fp32", (), True, 1)
    caches: list[LogitCache] = []
    for name, room, size in (("plain", 64, 64), ("halved", 100, 512)):
        monkeypatch.setitem(BATCH_SIZE, "cpu", size)
        teacher, cache = Small(room), LogitCache(tmp_path / name, wanted.key(digits(), "5a" * 32))
        assert Filler(wanted, digits(), cache, teacher, COMPUTE).fill(0) == 200 * 18
        assert [size for size in teacher.sizes if size > room] == ([] if name == "plain" else [512, 256, 128])
        assert not fixed or set(teacher.sizes) <= {512, 256, 128, 64}, "a smaller batch is padded to its own full size"
        caches.append(cache)
    plain, halved = caches
    assert torch.equal(halved.rows(), plain.rows()) and torch.equal(halved.filled(), plain.filled())


def test_throughput_is_of_the_largest_batch_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "THROUGHPUT", replace(latency.THROUGHPUT, most=3, limit_s=0.0))
    assert throughput(Small(room=100), 8, COMPUTE).batch_size == 64


def test_a_device_without_memory_for_one_image_fails_the_run_with_a_remedy() -> None:
    network = Small(room=0)
    with pytest.raises(RunFailed, match=r"a single image: use a GPU .*, a smaller model or .*image_size") as raised:
        evaluate(network, digits().test, COMPUTE)
    assert network.sizes == [512, 256, 128, 64, 32, 16, 8, 4, 2, 1]
    assert classify_failure(raised.value) == "out of memory" and "\n" not in str(raised.value)


def test_other_errors_are_not_retried() -> None:
    tried: list[int] = []

    def attempt(size: int) -> None:
        tried.append(size)
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        with_largest_batch_size(Small(room=1), 8, attempt)
    assert tried == [8]


@pytest.mark.parametrize(
    ("stage", "precision", "line"),
    [
        (
            "baseline",
            "fp32",
            "student.batch_size = 50: lower it, set student.precision=bf16, raise student.gradient_accumulation from 1",
        ),
        (
            "teacher",
            "fp32",
            "teacher.batch_size = 50: lower it, set teacher.precision=bf16, raise teacher.gradient_accumulation from 1",
        ),
        (
            "baseline",
            "bf16",
            "student.batch_size = 50: lower it, raise student.gradient_accumulation from 1, or use a GPU with more",
        ),
    ],
    ids=["student", "teacher", "student in bf16"],
)
def test_a_training_step_without_memory_fails_in_one_line_with_the_fields_to_change(
    stage: str, precision: str, line: str, run_folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(*_: object) -> None:
        raise torch.OutOfMemoryError(NO_MEMORY)

    monkeypatch.setattr("raykd.training.training_step.TrainState.step", step)
    run = run_of(stage, student=recipe(precision=precision))  # type: ignore[arg-type]
    with pytest.raises(RunFailed) as raised:
        train_one(run, run_folder, digits(), CPU, RunStore(run_folder.path.parent), None, observers=Observers())
    reason = str(raised.value)
    assert line in reason and reason.endswith("memory (CUDA out of memory. Tried to allocate 2.00 GiB)")
    assert "\n" not in reason and run_folder.require_record().reason == reason
    assert classify_failure(raised.value) == "out of memory" and run_folder.require_record().fails_by_configuration
