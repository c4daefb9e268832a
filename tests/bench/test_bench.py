"""Tests of the benchmark: equal steps for all implementations, ratios within a round, the standard pipeline's loss."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_runs import CPU

from raykd.bench import memory, rounds, run
from raykd.bench.families import FAMILIES, TimedPair, cnn, noise, vit
from raykd.bench.rounds import KINDS, run_rounds, summarize
from raykd.bench.small_experiment import SmallExperiment, compare
from raykd.bench.standard_pipeline import NUM_WORKERS, StandardPipeline
from raykd.cli import parser
from raykd.methods.kd import kd_loss
from raykd.models.four_stage_resnet import ResNet
from raykd.spec.plan import Run

NARROW = ResNet(blocks=(1, 1, 1, 1), width=8)
# Seconds of two rounds; 9 steps of 128 images each.
ROUNDS = {
    **{f"{name}, {kind}, steps": [1.0, 1.2] for name in ("step without the loop", "loop") for kind in KINDS},
    **{f"loop, {kind}, epoch": [1.5, 2.0] for kind in KINDS},
    "loop, live, steps": [2.0, 2.4],
    "standard pipeline, steps": [5.0, 6.0],
    "standard pipeline, epoch": [6.0, 9.0],
    "fill, views/s": [700.0, 900.0],
}


def tiny(family: TimedPair) -> TimedPair:
    """Return `family` with narrow models and rounds of two steps of 9 images."""
    teacher, student = (replace(recipe, model=NARROW, batch_size=9) for recipe in (family.teacher, family.student))
    return replace(family, name="tiny", teacher=teacher, student=student, steps=2)


class MakersCalled(Exception):
    """The benchmark has chosen its number of DataLoader processes."""


@pytest.mark.parametrize(("device", "expected"), [("cuda", 3), ("cpu", NUM_WORKERS)])
def test_on_a_gpu_the_standard_pipeline_has_a_loader_process_for_each_cpu_of_the_job(
    device: str, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def makers(family: TimedPair, device: torch.device, folder: Path, num_workers: int) -> None:
        assert num_workers == expected
        raise MakersCalled

    monkeypatch.setattr(rounds.os, "sched_getaffinity", lambda _: {0, 2, 5})
    monkeypatch.setattr(rounds, "implementation_makers", makers)
    monkeypatch.setattr(rounds, "configure_process", lambda device: None)
    monkeypatch.setattr(rounds, "choose_compute", lambda *_: None)
    with pytest.raises(MakersCalled):
        run_rounds(tiny(cnn()), torch.device(device), 1, print)


def test_results_are_medians_of_ratios_within_a_round() -> None:
    results = summarize(cnn(), ROUNDS)
    assert results["loop_efficiency"] == {"baseline": 1.0, "cache": 1.0, "live": 0.5}
    assert results["cache_over_baseline"] == 1.0
    assert results["standard_over_raykd"]["full_cache"] == pytest.approx((6 / 1.5 + 9 / 2) / 2)
    assert results["spread"]["standard_over_raykd"]["full_cache"] == pytest.approx([4.125, 4.375])
    assert results["ms_per_step"]["standard pipeline"] == pytest.approx(5500 / 9)
    assert results["images_per_s"]["standard pipeline"] == pytest.approx(128 * 9 / 5.5)
    assert results["rounds"] == ROUNDS


def test_filling_is_counted_over_all_runs_of_the_experiment() -> None:
    """The cost of 600 epochs of 45,000 images, without and with filling 97.6 % of 162 views."""
    first_round = {name: values[:1] for name, values in ROUNDS.items()}
    epochs = 600 * 45_000 / (9 * 128)
    passes = 45_000 * 162 * (1 - (161 / 162) ** 600)
    expected = 6.0 * epochs / (1.5 * epochs + passes / 700)
    assert summarize(cnn(), first_round)["standard_over_raykd"]["with_fill"] == pytest.approx(expected)


@pytest.mark.nightly
def test_a_family_is_benchmarked_from_end_to_end() -> None:
    results = run_rounds(tiny(cnn()), CPU, num_rounds=2, log=lambda line: None)
    rounds = results["rounds"]
    assert {len(values) for values in rounds.values()} == {2}
    assert all(value > 0 for values in rounds.values() for value in values)
    assert set(results["loop_efficiency"]) == set(KINDS)
    for name in ("standard pipeline", "loop, cache", "loop, live", "loop, baseline"):
        assert all(
            epoch > steps for epoch, steps in zip(rounds[f"{name}, epoch"], rounds[f"{name}, steps"], strict=True)
        ), "an epoch includes validation"


def test_families_are_the_recipes_of_the_experiments() -> None:
    recipes = {name: make() for name, make in FAMILIES.items()}
    labels = {name: (f.teacher_run().model.label, f.baseline().model.label) for name, f in recipes.items()}
    assert labels == {"cnn": ("resnet18", "resnet8"), "vit": ("vit_tiny_patch16_224", "vit6")}
    assert [(f.epochs, f.seeds, f.num_images, f.data.views.count) for f in recipes.values()] == [
        (200, 3, 45_000, 162),
        (150, 3, 45_000, 162),
    ]
    assert vit().steps * 128 // 9 == vit().data.val_images


def standard_pipeline(run: Run, has_teacher: bool = True) -> StandardPipeline:
    family = tiny(cnn())
    return StandardPipeline(
        run, family.dataset(), family.teacher_model(channels_last=False) if has_teacher else None, CPU
    )


def test_standard_pipeline_uses_the_loss_of_the_paper() -> None:
    pipeline = standard_pipeline(tiny(cnn()).distilled())
    images, labels = next(iter(pipeline._batches(pipeline._train)))
    pipeline.student.eval()
    with torch.no_grad():
        student = pipeline.student.forward_normalized(images).logits
        teacher = tiny(cnn()).teacher_model(False).forward_normalized(images)
        expected = 0.5 * F.cross_entropy(student, labels) + 0.5 * kd_loss(student, teacher.logits, 4.0)
        torch.testing.assert_close(pipeline._loss(images, labels), expected)


@pytest.mark.nightly
def test_standard_pipeline_trains_on_normalized_crops() -> None:
    pipeline = standard_pipeline(tiny(cnn()).baseline(), has_teacher=False)
    images, _ = next(iter(pipeline._batches(pipeline._train)))
    assert images.shape == (9, 3, 32, 32) and images.dtype == torch.float32 and images.min() == -2.0
    losses = [pipeline.epoch() for _ in range(40)]
    assert losses[-1] < 0.7 * losses[0] and 0 <= pipeline.validate() <= 100


@pytest.mark.nightly
def test_small_experiment_is_timed_both_ways() -> None:
    results = compare(SmallExperiment(num_images=128 + 128, epochs=2, width=8), CPU)
    assert results["ratio"] == pytest.approx(results["standard_s"] / results["raykd_s"]) and results["raykd_s"] > 0


@pytest.mark.nightly
def test_command_prints_and_writes_its_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("cnn", "vit"):
        monkeypatch.setitem(FAMILIES, name, lambda: tiny(cnn()))
    sizes = {
        "peak": 1 << 30,
        "before": 1 << 28,
        "images": 1 << 29,
        "cache": 1 << 27,
        "other": 1 << 30,
        "limit": 1 << 31,
    }
    monkeypatch.setattr(run, "peak_memory", lambda name, device: sizes)
    monkeypatch.setattr(run, "compare", lambda size, device: {"standard_s": 9.0, "raykd_s": 3.0, "ratio": 3.0})
    threads = torch.get_num_threads()
    assert parser.entry(["bench", "--rounds", "1", "--json", str(tmp_path / "b.json")]) == 0
    assert torch.get_num_threads() == threads
    results: dict[str, Any] = json.loads((tmp_path / "b.json").read_text())
    for name in ("cnn", "vit"):
        assert set(results[name]["loop_efficiency"]) == {"baseline", "cache", "live"}
        assert set(results[name]["standard_over_raykd"]) == {"full_cache", "with_fill"}
        assert results[name]["cache_over_baseline"] > 0 and results[name]["rounds"]
        assert results[name]["flops_per_s"]["share"] > 0
    printed = capsys.readouterr().out
    for expected in ("cnn: a training step", "vit: ratios", "1,024 MiB", "raykd 3 s", "3.0 times", "TFLOP/s"):
        assert expected in printed


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--rounds", "0"], "raykd: --rounds 0: must be at least 1"),
        (["--threads", "-1"], "raykd: --threads -1: must be at least 1"),
        (["--json", "no/such/folder/b.json"], "the folder does not exist; make it, or name another"),
        (["--device", "cuda"], "raykd: --device cuda: torch "),
        (["--device", "cuda"], "finds no GPU that it can use here; run it on a machine with a GPU"),
    ],
)
def test_invalid_arguments_are_refused_in_one_line(
    arguments: list[str], expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(run, "benchmark", lambda *_: pytest.fail("the benchmark ran"))
    assert parser.entry(["bench", *arguments]) == 2
    assert expected in capsys.readouterr().err


@pytest.mark.soak
@pytest.mark.parametrize("name", ["cnn", "vit"])
def test_run_on_a_cpu_keeps_to_images_cache_and_a_gibibyte_and_a_half(name: str) -> None:
    results = memory.peak_memory(name, CPU)
    print(name, results)
    assert results["cache"] == 162_000_000 and results["before"] < results["peak"] < results["limit"]
    assert results["limit"] == results["images"] + results["cache"] + 3 * 2**29


def test_noise_is_not_the_same_image_again() -> None:
    assert len({image.numpy().tobytes() for image in noise(50).train.images}) == 50


def test_a_pair_of_models_is_timed_by_name(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    timed: list[TimedPair] = []

    def rounds(family: TimedPair, *_: Any) -> dict[str, Any]:
        timed.append(family)
        return summarize(family, ROUNDS) | {"precision": "fp32"}

    monkeypatch.setattr(run, "run_rounds", rounds)
    assert parser.entry(["bench", "--student", "cifar_resnet8", "--teacher", "cifar_resnet14", "--rounds", "1"]) == 0
    (family,) = timed
    assert (family.teacher_run().model.label, family.baseline().model.label) == ("cifar_resnet14", "cifar_resnet8")
    assert "cifar_resnet14:cifar_resnet8: ratios, each within its round" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--student", "resnet8"], "--student and --teacher name a pair of models; give both"),
        (["--student", "resnet8", "--teacher", "resnet18", "--family", "cnn"], "leave it out beside --student"),
        (["--student", "resnet9", "--teacher", "resnet18"], "unknown model 'resnet9'"),
    ],
)
def test_a_pair_that_cannot_be_timed_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture
) -> None:
    assert parser.entry(["bench", *arguments]) == 2
    assert message in capsys.readouterr().err
