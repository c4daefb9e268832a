"""Tests of a model's costs: FLOPs counted by hand, and times measured once per shape and device in a family."""

import itertools
import json
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from small_runs import CPU, digits
from torch import Tensor, nn

from raykd import models
from raykd.config.codec import write_record
from raykd.models import ImageSpec, Model
from raykd.models.four_stage_resnet import ResNet
from raykd.models.vit_cifar import ViT
from raykd.provenance import versions
from raykd.store.records import Costs
from raykd.training import costs, latency
from raykd.training.compute import choose_compute
from raykd.training.costs import flops, model_costs
from raykd.training.model_file import architecture, images_of

CIFAR = ImageSpec(10, 32, (0.5,) * 3, (0.5,) * 3)
COMPUTE = choose_compute(CPU, "fp32")


def resnet_flops(blocks: tuple[int, ...], width: int, size: int, num_classes: int) -> int:
    """2 x multiply-adds: a 3x3 stem, two 3x3 convolutions a block, a 1x1 where shapes change, the head."""
    total, channels = 9 * 3 * width * size**2, width
    for stage, count in enumerate(blocks):
        wide, side = width * 2**stage, size // 2**stage
        for block in range(count):
            entering = channels if block == 0 else wide
            total += 9 * entering * wide * side**2 + 9 * wide * wide * side**2
            if block == 0 and stage:
                total += entering * wide * side**2
        channels = wide
    return 2 * (total + channels * num_classes)


def vit_flops(depth: int, width: int, patch: int, size: int, num_classes: int) -> int:
    """2 x multiply-adds: patches; a layer's four projections, attention's two products, an MLP of 4; the head."""
    patches = (size // patch) ** 2
    tokens = patches + 1
    layer = 4 * tokens * width**2 + 2 * tokens**2 * width + 8 * tokens * width**2
    return 2 * (patches * 3 * patch**2 * width + depth * layer + width * num_classes)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (ResNet((2, 2, 2, 2)), resnet_flops((2, 2, 2, 2), 64, 32, 10)),
        (ResNet((1, 1, 1, 1)), resnet_flops((1, 1, 1, 1), 64, 32, 10)),
        (ResNet((1, 2, 1, 1), 16), resnet_flops((1, 2, 1, 1), 16, 32, 10)),
        (ViT(), vit_flops(6, 192, 4, 32, 10)),
        (ViT(depth=2, width=64, heads=2, patch=8), vit_flops(2, 64, 8, 32, 10)),
    ],
    ids=lambda value: value.label if isinstance(value, Model) else "",
)
def test_flops_are_twice_the_multiply_adds_by_hand(model: Model, expected: int) -> None:
    assert flops(models.build(model, CIFAR, 0), 32, CPU) == expected


def test_a_resnet18_on_cifar_has_the_0_56_billion_multiply_adds_of_the_literature() -> None:
    assert flops(models.build(models.find("resnet18"), CIFAR, 0), 32, CPU) / 2e9 == pytest.approx(0.556, abs=1e-3)


class Queries(nn.Module):
    """Passes a view of a parameter to a module, as attention pooling does with its queries."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.embed, self.linear = nn.Parameter(torch.ones(3)), nn.Linear(3, 5), nn.Linear(5, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(self.embed(self.query.expand(len(images), -1)))


def test_flops_of_a_network_with_a_view_of_a_parameter_as_a_modules_input_are_counted() -> None:
    network = models.build(models.find("resnet8"), CIFAR, 0)
    network.network = Queries()
    network.run = lambda pixels: SimpleNamespace(logits=network.network(pixels))  # type: ignore[method-assign]
    assert flops(network, 32, CPU) == 2 * (3 * 5 + 5 * 10)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Passes take the times that a test puts in, whatever the machine does."""
    times: list[float] = []
    ticks = itertools.count()
    now = 0.0

    def tick() -> float:
        nonlocal now
        number = next(ticks)
        now += times[number // 2] if number % 2 else 0.0
        return now

    monkeypatch.setattr(latency, "time", SimpleNamespace(perf_counter=tick))
    return times


def test_latency_is_in_milliseconds_without_the_warm_up(clock: list[float]) -> None:
    clock += [5.0] * latency.LATENCY.warm_up + [0.001 * (number + 1) for number in range(latency.LATENCY.most)]
    model = models.build(ResNet((1, 1, 1, 1), 8), images_of(digits()), 0)
    found = latency.latency(model, 8, COMPUTE)
    assert (found.median, found.p10, found.p90) == pytest.approx((25.5, 5.9, 45.1))
    assert (found.passes, found.batch_size) == (50, 1)


def test_throughput_is_of_256_images_and_its_p10_is_slow(clock: list[float]) -> None:
    clock += [9.0] + [0.128] * 18 + [0.256] * 2
    model = models.build(ResNet((1, 1, 1, 1), 8), images_of(digits()), 0)
    found = latency.throughput(model, 8, COMPUTE)
    assert (found.median, found.passes, found.batch_size) == (pytest.approx(2000), 20, 256)
    assert found.p10 == pytest.approx(1900) and found.p90 == pytest.approx(2000)


def test_a_slow_machine_runs_the_minimum_number_of_passes(clock: list[float]) -> None:
    clock += [2.0] * 100
    model = models.build(ResNet((1, 1, 1, 1), 8), images_of(digits()), 0)
    assert latency.throughput(model, 8, COMPUTE).passes == latency.THROUGHPUT.fewest == 3
    clock[:] = [2.0] * 100
    assert latency.latency(model, 8, COMPUTE).passes == latency.LATENCY.fewest == 10


def test_latency_ms_is_the_median(clock: list[float]) -> None:
    clock += [5.0] * latency.LATENCY.warm_up + [0.002] * latency.LATENCY.most
    model = models.build(ResNet((1, 1, 1, 1), 8), images_of(digits()), 0)
    assert latency.latency(model, 8, COMPUTE).median == pytest.approx(2.0)


def test_a_gpu_is_warmed_up_for_half_a_second_whatever_the_number_of_passes(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert latency.WARM_UP_S == {"cpu": 0.0, "cuda": 0.5}
    monkeypatch.setitem(latency.WARM_UP_S, "cpu", 0.5)
    slow_at_first = [0.0625] * 8
    clock += slow_at_first + [0.001] * latency.LATENCY.most
    model = models.build(ResNet((1, 1, 1, 1), 8), images_of(digits()), 0)
    found = latency.latency(model, 8, COMPUTE)
    assert (found.p90, found.passes) == (pytest.approx(1.0), 50)


def test_images_are_channels_last_as_a_loader_makes_them(clock: list[float]) -> None:
    clock += [0.001] * 100
    model, seen = models.build(ResNet((1, 1, 1, 1), 8), images_of(digits()), 0), set[bool]()
    model.register_forward_pre_hook(
        lambda _, given: seen.add(given[0].is_contiguous(memory_format=torch.channels_last))
    )
    latency.throughput(model, 8, COMPUTE)
    assert seen == {True}


def test_costs_of_another_memory_format_are_measured_again(tmp_path: Path) -> None:
    model = ResNet((1, 1, 1, 1), 8)
    plain = beside(tmp_path, model)
    network = models.build(model, images_of(digits()), 0).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert model_costs(tmp_path, model, network, images_of(digits()), COMPUTE).shape != plain.shape


def test_costs_that_were_measured_on_a_shared_gpu_are_not_used_for_one_that_is_not_shared(tmp_path: Path) -> None:
    model, images = ResNet((1, 1, 1, 1), 8), images_of(digits())
    network = models.build(model, images, 0)
    shared = model_costs(tmp_path, model, network, images, COMPUTE, shares_gpu=True)
    write_record(tmp_path / "run/costs.json", shared)
    assert model_costs(tmp_path, model, network, images, COMPUTE, shares_gpu=True) == shared
    assert model_costs(tmp_path, model, network, images, COMPUTE).shape != shared.shape


def beside(family: Path, model: Model, precision: str = "fp32", **changes: object) -> Costs:
    images = replace(images_of(digits()), **changes)
    return model_costs(family, model, models.build(model, images, 0), images, choose_compute(CPU, precision))


@pytest.mark.nightly
def test_costs_are_measured_once_for_a_shape_on_a_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[str] = []
    monkeypatch.setattr(costs, "flops", lambda *_: measured.append("flops") or 1)
    small = ResNet((1, 1, 1, 1), 8)
    first = beside(tmp_path, small)
    assert measured == ["flops"] and first.parameters == 78_002
    (tmp_path / "baseline-s0").mkdir()
    (tmp_path / "baseline-s0" / "costs.json").write_text(json.dumps(asdict(first)))
    assert beside(tmp_path, small) == first and len(measured) == 1, "other weights, the same costs"
    for other in (
        beside(tmp_path, ResNet((1, 1, 1, 1), 16)),
        beside(tmp_path, small, "bf16"),
        beside(tmp_path, small, num_classes=7),
    ):
        assert other.shape != first.shape
    assert len(measured) == 4
    monkeypatch.setattr(costs, "device_name", lambda _: "another machine")
    assert beside(tmp_path, small).device == "another machine" and len(measured) == 5


def test_costs_do_not_depend_on_dropout_or_the_file_of_initial_weights() -> None:
    """They are measured in evaluation mode, where dropout does nothing, for any values of the weights."""
    plain = ViT(depth=2, width=64, heads=2, patch=8)
    for other in (replace(plain, dropout=0.3), replace(plain, weights="vit.safetensors")):
        assert architecture(other) == architecture(plain)
    for other in (replace(plain, heads=4), replace(plain, depth=1), ResNet()):
        assert architecture(other) != architecture(plain)


def test_costs_are_read_from_a_run_with_another_dropout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = ViT(depth=1, width=24, heads=2, patch=4)
    first = beside(tmp_path, plain)
    (tmp_path / "baseline-s0").mkdir()
    write_record(tmp_path / "baseline-s0" / "costs.json", first)
    monkeypatch.setattr(costs, "latency", lambda *_: pytest.fail("the costs were measured again"))
    assert beside(tmp_path, replace(plain, dropout=0.3)) == first


def test_costs_record_hardware_and_precision(tmp_path: Path) -> None:
    found = beside(tmp_path, ResNet((1, 1, 1, 1), 8))
    assert found.device and found.torch == versions()["torch"] and found.precision == "fp32"
    assert (found.threads, found.image_size) == (COMPUTE.threads, 8)
    for name, batch_size in (("latency_ms", 1), ("images_per_s", 256)):
        timing = getattr(found, name)
        assert 0 < timing.p10 <= timing.median <= timing.p90 and timing.batch_size == batch_size
