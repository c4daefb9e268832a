"""Methods on feature maps of ViTs and timm models: each pair trains and learns its term, or is refused in one line."""

import itertools
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nightly import nightly_except, nightly_unless
from small_runs import CPU, NO_WEIGHTS, digits, experiment, recipe, run_of, teacher_of, train
from torch import Tensor, nn

from raykd import models
from raykd.cli.experiment_file import load_experiment
from raykd.config import kinds
from raykd.errors import ConfigError
from raykd.methods import KD, FitNets, Method, StageMethod
from raykd.methods.fitnets import regressor
from raykd.methods.method import LinearWarmup
from raykd.models import ImageSpec, Model
from raykd.models.four_stage_resnet import ResNet
from raykd.models.timm_model import Timm, feature_stages
from raykd.models.vit_cifar import ViT
from raykd.outputs import Outputs, Targets
from raykd.spec.overrides import override
from raykd.spec.plan import Run, make_plan
from raykd.spec.recipe import AdamW
from raykd.store.run_folder import RunFolder
from raykd.training.compute import choose_compute
from raykd.training.network_checks import NetworkChecks
from raykd.training.training_step import TrainState, make_train_state

MAPS = sorted(kind for kind, method in kinds(Method).items() if issubclass(method, StageMethod))
RESNET, WIDE_RESNET = (ResNet((1, 1, 1, 1), width) for width in (8, 16))
VIT6, VIT12 = (ViT(depth, 24, 2, 2) for depth in (6, 12))
FINE = ViT(depth=4, width=12, heads=2, patch=1)  # 8x8 places, where the others' have 4x4
PAIRS: dict[str, tuple[Model, Model]] = {  # teacher, student
    "vit to vit": (VIT12, VIT6),
    "vit to narrower vit of more patches": (VIT12, FINE),
    "vit to vit of fewer patches": (FINE, VIT6),
    "vit to vit with a token": (VIT12, replace(VIT6, distillation_token=True)),
    "resnet to vit": (WIDE_RESNET, VIT6),
    "vit to resnet": (VIT12, RESNET),
    "timm's vit to vit": (Timm("test_vit", input_size=48), VIT6),
    "timm's convnext to resnet": (Timm("test_convnext", input_size=32), RESNET),
}
CIFAR10 = ImageSpec(10, 32, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
STEPS = 12
QUICK = [("fitnets", "vit to vit"), ("nst", "resnet to vit"), ("at", "vit to vit"), ("vid", "resnet to vit")]


def method_of(name: str) -> Method:
    """Return the method without a warm-up, in which its terms would have weight 0 at first."""
    method = kinds(Method)[name]
    changes: dict[str, Any] = {"warmup_epochs": 0.0} if issubclass(method, LinearWarmup) else {}
    return method(**changes)


def run_with(method: Method, pair: tuple[Model, Model], **changes: Any) -> Run:
    teacher, student = recipe(model=pair[0]), recipe(model=pair[1], optimizer=AdamW(lr=3e-3), epochs=2, **changes)
    return run_of("distilled", method=method, teacher=teacher, student=student)


def training_of(run: Run) -> TrainState:
    training = make_train_state(run, digits(), choose_compute(CPU, "fp32"), teacher_of(run))
    training.objective.train()
    return training


@pytest.mark.parametrize(("name", "pair"), nightly_unless(lambda case: case in QUICK, itertools.product(MAPS, PAIRS)))
def test_term_falls_over_steps_on_a_batch(name: str, pair: str) -> None:
    """Only the method's gradients train: they move the adapter and the student up to its last feature map."""
    method = replace(method_of(name), ce_weight=0.0)
    training = training_of(run_with(method, PAIRS[pair]))
    before = {key: p.detach().clone() for key, p in training.objective.named_parameters()}
    batch, weights = next(training.loader.epoch(0)), training.term_weights(0)
    terms = [training.step(batch, weights) for _ in range(STEPS)]
    assert all(value.isfinite() for term in terms for value in term.values())
    assert terms[-1][name] < terms[0][name]
    moved = {key for key, p in training.objective.named_parameters() if not torch.equal(p, before[key])}
    assert {key for key in before if key.startswith("adapter.")} <= moved
    stem = "student.network.conv1.weight" if PAIRS[pair][1] == RESNET else "student.network.patch_embed.proj.weight"
    assert stem in moved


@pytest.mark.parametrize("pair", nightly_except(["vit to resnet"], ["vit to vit", "resnet to vit", "vit to resnet"]))
@pytest.mark.parametrize("name", nightly_except(["fitnets"], MAPS))
def test_pair_trains_through_the_loop(name: str, pair: str, tmp_path: Path) -> None:
    run = run_with(method_of(name), PAIRS[pair])
    NetworkChecks(digits()).require_method_fits(run)
    first, last = train(run, RunFolder(tmp_path))
    assert set(last.terms) == {*run.method.weights(0), "loss"} and np.isfinite(list(last.terms.values())).all()
    assert last.terms["loss"] < first.terms["loss"]


@pytest.mark.nightly
def test_graph_of_a_vit_pair_can_be_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda module: compile_(module, backend="aot_eager", fullgraph=True))
    histories = []
    for compiled in (False, True):
        run = run_with(FitNets(), PAIRS["vit to vit"], compile=compiled)
        histories.append([report.terms for report in train(run, RunFolder(tmp_path / str(compiled)))])
    assert histories[1] == [pytest.approx(terms, rel=1e-3) for terms in histories[0]]


# experiments/distill_vit.py


def of_distill_vit() -> tuple[Outputs, Outputs]:
    """Return student's and teacher's outputs for 2 images, at the sizes of the experiment, with random weights."""
    real = load_experiment(Path(__file__).parents[2] / "experiments" / "distill_vit.py")
    outputs = []
    views = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for role in (real.student, real.teacher):
        assert role is not None and isinstance(role.model, Model)
        network = models.build(role.model, CIFAR10, 0).eval()
        network.with_features = True
        with torch.no_grad():
            outputs.append(network(views))
    return outputs[0], outputs[1]


def test_default_stages_pair_vit_tiny_with_the_small_vit() -> None:
    student, teacher = of_distill_vit()
    assert [tuple(maps.shape[1:]) for maps in student.features] == [(192, 8, 8)] * 4
    assert [tuple(maps.shape[1:]) for maps in teacher.features] == [(192, 14, 14)] * 4
    images = Targets(torch.arange(12) % 3, torch.arange(12))
    for name in MAPS:
        method = kinds(Method)[name]()
        adapter = method.adapter(student, teacher, images)
        assert method.terms(student, teacher, images, adapter)[name].isfinite()


def test_paired_blocks_are_the_documented_ones() -> None:
    text = (Path(__file__).parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")
    documented = re.search(r"blocks ([\d, and]+) of ViT-Tiny are paired with blocks ([\d, and]+) of `vit6`,", text)
    assert documented is not None
    for name, blocks in zip(("vit_tiny", "vit6"), documented.groups(), strict=True):
        network = models.build(models.find(name), CIFAR10, 0).network
        assert [stage + 1 for stage in feature_stages(network)] == [int(block) for block in re.findall(r"\d+", blocks)]


@pytest.mark.nightly
def test_all_methods_on_feature_maps_compare_on_vits() -> None:
    compared = tuple(kinds(Method)[name]() for name in MAPS)
    vits = experiment(teacher=recipe(model=VIT12), student=recipe(model=VIT6), compare=compared)
    plan = make_plan(vits, digits(), NO_WEIGHTS)
    assert list(plan.comparison) == ["kd", *MAPS]
    for run in plan.runs:
        if run.stage == "distilled":
            NetworkChecks(digits()).require_method_fits(run)
    real = load_experiment(Path(__file__).parents[2] / "experiments" / "distill_vit.py")
    assert override(real, "compare", ",".join(MAPS)).compare == compared


# Methods that do not read feature maps


@pytest.mark.parametrize("method", [KD(), FitNets()], ids=lambda method: method.kind)
def test_feature_maps_are_computed_only_if_the_method_needs_them(method: Method) -> None:
    run = run_with(method, PAIRS["vit to vit"])
    teacher = teacher_of(run)
    training = make_train_state(run, digits(), choose_compute(CPU, "fp32"), teacher)
    batch = next(training.loader.epoch(0))
    pair = training.objective.student(batch.images), teacher(batch)
    num_stages = 4 if "features" in method.needs else 0
    assert [outputs is not None and len(outputs.features) for outputs in pair] == [num_stages, num_stages]


# Models with other stages


def test_vit_of_fewer_than_four_blocks_is_paired_by_named_stages() -> None:
    pair = (VIT12, ViT(3, 24, 2, 2))
    with pytest.raises(
        ConfigError, match="the student has 3 stages and the teacher 4; name the stages to pair"
    ) as caught:
        NetworkChecks(digits()).require_method_fits(run_with(kinds(Method)["at"](), pair))
    assert "\n" not in str(caught.value)
    NetworkChecks(digits()).require_method_fits(run_with(replace(kinds(Method)["at"](), stages=(-3, -2, -1)), pair))


@pytest.mark.parametrize("name", MAPS)
def test_model_without_feature_maps_is_refused_in_one_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raykd.models.timm_model.feature_stages", lambda network: [])
    with pytest.raises(ConfigError, match="the teacher's model returns no feature maps; use one that") as caught:
        NetworkChecks(digits()).require_method_fits(run_with(kinds(Method)[name](), (VIT12, RESNET)))
    assert "\n" not in str(caught.value)


# FitNets with a larger teacher's map


def averaged(maps: Tensor, height: int, width: int) -> np.ndarray:
    """Average-pool to `height` x `width` in NumPy."""
    x = maps.double().numpy()
    actual = np.zeros((*x.shape[:2], height, width))
    for i, j in np.ndindex(height, width):
        rows = slice(i * x.shape[2] // height, -(-(i + 1) * x.shape[2] // height))
        columns = slice(j * x.shape[3] // width, -(-(j + 1) * x.shape[3] // width))
        actual[:, :, i, j] = x[:, :, rows, columns].mean((2, 3))
    return actual


@pytest.mark.parametrize(
    ("ours", "theirs", "compared"),
    [((8, 8), (14, 14), (8, 8)), ((8, 8), (8, 9), (8, 8)), ((8, 8), (14, 3), (8, 3)), ((4, 9), (9, 4), (4, 4))],
)
def test_hint_compares_with_the_pooled_larger_map(ours: Any, theirs: Any, compared: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 3, *ours, generator=generator), torch.randn(2, 5, *theirs, generator=generator)
    adapter = regressor(student, teacher).double()
    regressed = adapter(student.double())
    assert regressed.shape == (2, 5, *compared)
    expected = np.mean((regressed.detach().numpy() - averaged(teacher, *compared)) ** 2)
    outputs = [Outputs(torch.zeros(2, 4), features=(maps.double(),)) for maps in (student, teacher)]
    targets = Targets(torch.zeros(2, dtype=torch.int64), torch.arange(2))
    terms = FitNets(stages=(0,)).terms(*outputs, targets, nn.ModuleList([adapter]))
    assert terms["fitnets"].item() == pytest.approx(expected, rel=1e-9)
