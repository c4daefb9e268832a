"""Check that raykd computes the same on the device as on the CPU, resumes there exactly, and never waits for it.

Each check is a figure with 'passed' and the values behind it. In a toy on a CPU both sides are the CPU.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from gpu_parts import sync_checks
from gpu_parts.report import Part
from gpu_parts.setting import BATCH_SIZE, Setting, Small, small_dataset, teacher_network
from raykd.config import kinds
from raykd.data.augmentation import Augmentation
from raykd.data.counter_rng import hash64, permutation, uniform, uniform_int
from raykd.data.loader import TrainLoader
from raykd.data.types import Dataset
from raykd.data.views import ViewRenderer, Views
from raykd.errors import Interrupted
from raykd.methods import KD, CrossEntropy, Method
from raykd.spec.experiment import CACHEABLE
from raykd.store.run_folder import RunFolder
from raykd.training.checkpoint import read_checkpoint
from raykd.training.compute import choose_compute
from raykd.training.evaluate import evaluate
from raykd.training.hooks import Hooks
from raykd.training.loop import fit
from raykd.training.teacher.cache import LogitCache
from raykd.training.teacher.choose import PlannedCache
from raykd.training.teacher.fill import Filler
from raykd.training.training_step import make_train_state

CPU = torch.device("cpu")
AUGMENTATIONS = {
    "crop_area": Augmentation(crop_area=0.3),
    "randaugment": Augmentation(randaugment=(2, 9)),
    "cutout": Augmentation(cutout=6),
    "erasing": Augmentation(erasing=0.5),
    "mixup": Augmentation(mixup=0.8),
    "cutmix": Augmentation(cutmix=1.0),
    "all": Augmentation(crop_area=0.3, randaugment=(2, 9), cutout=6, mixup=0.8, cutmix=1.0),
}
WARM_EPOCH = 30  # at which methods with a warm-up weight all their terms
MOST_LOSS_DIFFERENCE, MOST_UPDATE_DIFFERENCE = 1e-4, 1e-2  # relative, float32 without TF32
HALF_ROUNDING = 2.0**-10  # relative, float16: two roundings
RESUME_EPOCHS, RESUME_STEP = 2, 8  # of 12 steps: within the second epoch


def measure(part: Part, setting: Setting) -> None:
    device, dataset = setting.device, small_dataset()
    part.figure("random numbers", lambda: compare_random_numbers(device))
    part.figure("views", lambda: compare_views(device, dataset))
    for name, augmentation in AUGMENTATIONS.items():
        part.figure(f"augmentation {name}", lambda a=augmentation: compare_augmentation(device, dataset, a))
    part.figure("evaluate", lambda: compare_evaluation(device, dataset))
    part.figure("fill", lambda: compare_filling(device, dataset, setting.folder))
    for precision in ("fp32", "bf16", "fp16"):
        for step in ("eager", "graph"):
            part.figure(
                f"resume {precision} {step}",
                lambda p=precision, s=step: compare_resume(device, dataset, p, s),
                cuda=precision != "fp32" or step == "graph",
            )
    for method, source in method_sources():
        part.figure(f"step {method.kind} {source}", lambda m=method, s=source: compare_step(device, dataset, m, s))
    for step in ("eager", "graph"):
        for method, source in method_sources():
            small = Small(method, source, step=step)
            part.figure(f"sync {step} {method.kind} {source}", lambda s=small: sync_checks.step(device, s), cuda=True)
        for name, augmentation in AUGMENTATIONS.items():
            small = Small(CrossEntropy(), "none", step=step)
            part.figure(
                f"sync {step} augmentation {name}",
                lambda s=small, a=augmentation: sync_checks.step(device, s, a),
                cuda=True,
            )


def method_sources() -> Iterator[tuple[Method, str]]:
    """Yield every method with each source of teacher outputs that it can use."""
    yield CrossEntropy(), "none"
    for cls in kinds(Method).values():
        if cls in (CrossEntropy, Method):
            continue
        method = cls()
        yield method, "live"
        if method.needs <= CACHEABLE:
            yield method, "cache"


def compare_random_numbers(device: torch.device) -> dict[str, Any]:
    """Compare the bits of the hash, and of the numbers derived from it."""

    def of(place: torch.device) -> list[Tensor]:
        counters = torch.arange(100_000, device=place)
        bits = hash64(1, 2, counters - 50_000)
        orders = [permutation(seed, 3, 45_000, place) for seed in range(3)]
        return [bits, uniform_int(bits, 162), uniform(bits), *orders]

    return _equal(of(CPU), of(device))


def compare_views(device: torch.device, dataset: Dataset) -> dict[str, Any]:
    """Compare the drawn views and their pixels."""
    kind = Views(crop_padding=4, flip=True)

    def of(place: torch.device) -> list[Tensor]:
        renderer = ViewRenderer(dataset.train.images, kind, place)
        index = torch.arange(len(dataset.train.labels), device=place)
        drawn = kind.draw(1, 2, index)
        every = torch.arange(kind.count, device=place)
        return [drawn, renderer.render(index, drawn), renderer.render(torch.zeros_like(every), every)]

    return _equal(of(CPU), of(device))


def compare_augmentation(device: torch.device, dataset: Dataset, augmentation: Augmentation) -> dict[str, Any]:
    """Compare the batches of an epoch: pixels, labels and mixed partners."""

    def of(place: torch.device) -> list[Tensor]:
        rows, kind = torch.arange(len(dataset.train.labels)), Views(crop_padding=4, flip=True)
        loader = TrainLoader(
            dataset.train.images,
            dataset.train.labels,
            rows,
            kind,
            BATCH_SIZE,
            0,
            place,
            augmentation=augmentation,
            mean=dataset.mean,
            std=dataset.std,
        )
        tensors = []
        for batch in loader.epoch(1):
            tensors += [batch.images, batch.labels, *(batch.mixed or ())]
        return tensors

    return _equal(of(CPU), of(device))


def compare_evaluation(device: torch.device, dataset: Dataset) -> dict[str, Any]:
    """Compare top-1 and loss of the same weights, in float32 without TF32."""
    network = teacher_network(Small(KD(), "live").run(), dataset)
    with exact_float32():
        results = [evaluate(network.to(place), dataset.train, choose_compute(place, "fp32")) for place in (CPU, device)]
    difference = abs(results[0].nll - results[1].nll) / results[0].nll
    is_equal = difference < MOST_LOSS_DIFFERENCE and abs(results[0].top1 - results[1].top1) < 1
    return {"passed": is_equal, "relative_difference_of_loss": difference, "top1": [one.top1 for one in results]}


def compare_filling(device: torch.device, dataset: Dataset, folder: Path) -> dict[str, Any]:
    """Compare a small logit cache filled on the device with one filled on the CPU, in float32 without TF32."""
    run = replace(Small(KD(), "live").run(), data=replace(Small(KD(), "live").run().data, crop_padding=0))
    assert run.teacher is not None
    planned = PlannedCache((run.teacher,), run.data, "fp32", (), True, 1)
    logits = []
    with exact_float32():
        for name, place in (("cpu", CPU), ("device", device)):
            with tempfile.TemporaryDirectory(dir=folder) as caches:
                cache = LogitCache(Path(caches), planned.key(dataset, name))
                teacher = teacher_network(run, dataset).to(place)
                num_views = Filler(planned, dataset, cache, teacher, choose_compute(place, "fp32")).fill(0)
                logits.append(cache.logits().clone().float())
    scale = logits[0].abs().max()
    difference = float((logits[0] - logits[1]).abs().max() / scale)
    same = float((logits[0] == logits[1]).float().mean())
    return {
        "passed": difference < HALF_ROUNDING,
        "difference_of_largest": difference,
        "equal": same,
        "views": num_views,
    }


def compare_step(device: torch.device, dataset: Dataset, method: Method, source: str) -> dict[str, Any]:
    """Compare loss terms and update of one step with the CPU's, in float32 without TF32.

    Random numbers of a method (CRD's negatives) are drawn on the CPU for both.
    """
    small, results = Small(method, source), []
    for place in (CPU, device):
        run = small.run()
        with exact_float32(), cpu_randomness():
            training = make_train_state(run, dataset, choose_compute(place, "fp32"), small.teacher(run, dataset, place))
            before = _weights(training.objective)
            training.objective.train()
            batch = next(iter(training.loader.epoch(0)))
            terms = training.step(batch, method.weights(WARM_EPOCH))
        after = _weights(training.objective)
        results.append(({name: float(term) for name, term in terms.items()}, after - before))
    (terms, update), (other_terms, other_update) = results
    differences = {name: abs(terms[name] - other_terms[name]) / max(abs(terms[name]), 1e-6) for name in terms}
    of_update = float((update - other_update).norm() / update.norm())
    worst = max(differences, key=lambda name: differences[name])
    is_equal = differences[worst] < MOST_LOSS_DIFFERENCE and of_update < MOST_UPDATE_DIFFERENCE
    return {
        "passed": is_equal,
        "relative_difference_of_terms": differences[worst],
        "term": worst,
        "relative_difference_of_update": of_update,
    }


def compare_resume(device: torch.device, dataset: Dataset, precision: str, step: str) -> dict[str, Any]:
    """Compare two uninterrupted runs and one that resumes: all must end with the same bits.

    If the two uninterrupted runs differ, the comparison is repeated with cuDNN's deterministic kernels.
    """
    as_is = _resume_figures(device, dataset, precision, step)
    if as_is["deterministic"]:
        return {"passed": as_is["resumed_exactly"], **as_is}
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    try:
        strict = _resume_figures(device, dataset, precision, step)
    finally:
        torch.backends.cudnn.deterministic = before
    return {"passed": strict["resumed_exactly"], **as_is, "with_deterministic_cudnn": strict}


def _resume_figures(device: torch.device, dataset: Dataset, precision: str, step: str) -> dict[str, Any]:
    small = Small(KD(), "live", precision=precision, step=step, epochs=RESUME_EPOCHS)
    run, ends = small.run(), []
    with tempfile.TemporaryDirectory() as folder:
        for number, is_interrupted in enumerate((False, False, True)):
            place, done = RunFolder(Path(folder) / str(number)), iter(range(10**6))
            if is_interrupted:
                try:
                    hooks = Hooks(should_stop=lambda d=done: next(d) == RESUME_STEP)
                    fit(run, dataset, place, device, small.teacher(run, dataset, device), hooks)
                except Interrupted:
                    pass
            fit(run, dataset, place, device, small.teacher(run, dataset, device))
            end = read_checkpoint(place.checkpoint, run.fingerprint)
            assert end is not None
            ends.append(end.objective | {f"optimizer {name}": value for name, value in end.optimizer.items()})
    return {
        "deterministic": _differing(ends[0], ends[1]) == 0,
        "resumed_exactly": _differing(ends[0], ends[2]) == 0,
        "differing_tensors_of_equal_runs": _differing(ends[0], ends[1]),
        "differing_tensors_after_resume": _differing(ends[0], ends[2]),
        "tensors": len(ends[0]),
        "largest_difference_after_resume": max(
            float((ends[0][name].float() - ends[2][name].float()).abs().max())
            for name in ends[0]
            if ends[0][name].numel()
        ),
    }


def _differing(tensors: dict[str, Tensor], other_tensors: dict[str, Tensor]) -> int:
    return sum(not torch.equal(tensor, other_tensors[name]) for name, tensor in tensors.items())


def _weights(module: torch.nn.Module) -> Tensor:
    return torch.cat([weight.detach().cpu().double().flatten() for weight in module.parameters()])


def _equal(tensors: list[Tensor], other_tensors: list[Tensor]) -> dict[str, Any]:
    """Return whether tensors are bit-identical; if not, with the count and the size of the differences."""
    assert len(tensors) == len(other_tensors) > 0
    differing, largest, numbers = 0, 0.0, 0
    for one, on_device in zip(tensors, other_tensors, strict=True):
        other = on_device.cpu()
        assert one.dtype == other.dtype and one.shape == other.shape
        differing += int((one != other).sum())
        largest = max(largest, float((one.double() - other.double()).abs().max()))
        numbers += one.numel()
    return {"passed": differing == 0, "differing": differing, "largest_difference": largest, "numbers": numbers}


@contextmanager
def exact_float32() -> Iterator[None]:
    """Disable TF32, which rounds float32 to 11 bits in products and convolutions."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = False
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


@contextmanager
def cpu_randomness() -> Iterator[None]:
    """Make torch.rand draw on the CPU from one seed, whatever the device of its result."""
    generator, drawn = torch.Generator().manual_seed(11), torch.rand

    def rand(*shape: int, device: Any = None, **options: Any) -> Tensor:
        return drawn(*shape, generator=generator, **options).to(device or CPU)

    with mock.patch.object(torch, "rand", rand):
        yield
