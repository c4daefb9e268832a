"""SRRL against its formulas in NumPy, and the teacher's classifier that it applies to the student's embedding."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nightly import nightly_except
from small_runs import CPU, NO_WEIGHTS, digits, experiment, recipe, run_of, teacher_of, train
from torch import Tensor, nn
from user_network import UserNet

from raykd.errors import ConfigError, Interrupted
from raykd.methods import SRRL, Method, TeacherClassifier
from raykd.methods.srrl import connector
from raykd.models import Model
from raykd.models.custom_network import Network
from raykd.models.four_stage_resnet import ResNet
from raykd.models.timm_model import Timm
from raykd.models.torchvision_model import Torchvision
from raykd.models.vgg_cifar import VGG
from raykd.models.vit_cifar import ViT
from raykd.outputs import Outputs, Targets
from raykd.spec.plan import Run, make_plan
from raykd.store.run_folder import RunFolder
from raykd.training.adapters import classifier_of
from raykd.training.compute import choose_compute
from raykd.training.network_checks import NetworkChecks
from raykd.training.teacher.cache import LogitCache
from raykd.training.teacher.choose import choose_teacher
from raykd.training.teacher.fill import Filler
from raykd.training.teacher.load import load_cached_teacher, load_live_teacher
from raykd.training.teacher.sources import CachedTeacher, LiveTeacher
from raykd.training.training_step import make_train_state

GENERATOR = torch.Generator().manual_seed(0)
TARGETS = Targets(torch.arange(6) % 3, torch.arange(6))
TWO_HEADS = ViT(depth=2, width=24, heads=2, patch=2, distillation_token=True)


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=GENERATOR, dtype=torch.float64)


@pytest.mark.parametrize("has_negative_values", [False, True])
def test_terms_are_those_of_the_formulas(has_negative_values: bool) -> None:
    head, method = nn.Linear(5, 3).double(), SRRL()
    vectors = drawn(6, 5) if has_negative_values else drawn(6, 5).abs()
    with torch.no_grad():
        teacher = Outputs(head(vectors), vectors)
    student = Outputs(drawn(6, 3), drawn(6, 4))
    adapter = method.adapter(student, teacher, TARGETS).double()
    classifier = adapter["classifier"]  # type: ignore[index]
    assert isinstance(classifier, TeacherClassifier)
    classifier.load(head)
    classifier.double()
    actual = method.terms(student, teacher, TARGETS, adapter)

    assert student.embedding is not None
    convolution = adapter["connector"][0].weight.detach().numpy()[:, :, 0, 0]  # type: ignore[index]
    weight, bias = (p.detach().numpy().astype(np.float32).astype(np.float64) for p in (head.weight, head.bias))
    connected = np.zeros((6, 5))
    for image, channel in np.ndindex(6, 5):
        connected[image, channel] = sum(convolution[channel, i] * student.embedding[image, i].item() for i in range(4))
    connected = (connected - connected.mean(0)) / np.sqrt(connected.var(0) + 1e-5)
    if not has_negative_values:
        connected = np.maximum(connected, 0)
    logits = np.array([[weight[c] @ connected[image] + bias[c] for c in range(3)] for image in range(6)])
    expected = {
        "srrl_embedding": np.mean((connected - vectors.numpy()) ** 2),
        "srrl_logits": np.mean((logits - teacher.logits.numpy()) ** 2),
    }
    assert {name: actual[name].item() for name in expected} == pytest.approx(expected, rel=1e-9)
    assert set(actual) == {"kd", *expected}


def test_connector_has_the_authors_initial_weights() -> None:
    layer = connector(torch.rand(6, 300), torch.rand(6, 200))[0]
    assert isinstance(layer, nn.Conv2d) and layer.bias is None
    assert layer.weight.std().item() == pytest.approx((2 / 200) ** 0.5, rel=0.02)


def test_student_without_labels_has_no_classifier_and_learns_from_the_teachers(tmp_path: Path) -> None:
    run = run_of("distilled", method=SRRL(ce_weight=0.0), student=recipe(epochs=2))
    assert not run.model.classifier
    NetworkChecks(digits()).require_method_fits(run)
    first, last = train(run, RunFolder(tmp_path))
    assert set(last.terms) == {"srrl_embedding", "srrl_logits", "loss"}
    assert last.terms["loss"] == pytest.approx(last.terms["srrl_embedding"] + last.terms["srrl_logits"], rel=1e-5)
    assert last.terms["loss"] < first.terms["loss"]


def test_teacher_without_a_classifier_requires_a_logits_weight_of_zero() -> None:
    imported = {"teacher": recipe(model=ResNet((1, 1, 1, 1), 16, classifier=False)), "teacher_checkpoint": "a.pth"}
    with pytest.raises(
        ConfigError, match=r"its loss reads the teacher's logits, and teacher\.model\.classifier = False"
    ):
        experiment(method=SRRL(), **imported)
    method = experiment(method=SRRL(logits_weight=0.0), **imported).method
    student, teacher = Outputs(torch.rand(6, 3), torch.rand(6, 4)), Outputs(torch.rand(6, 0), torch.rand(6, 5))
    terms = method.terms(student, teacher, TARGETS, method.adapter(student, teacher, TARGETS))
    assert set(terms) == {"srrl_embedding", "srrl_logits"} and terms["srrl_logits"] == 0


# The teacher's classifier


def run_with(teacher: Model, method: Method | None = None, **changes: Any) -> Run:
    return run_of("distilled", method=method or SRRL(), teacher=recipe(model=teacher), **changes)


@pytest.mark.parametrize(
    "teacher",
    nightly_except(
        [ResNet((1, 1, 1, 1), 16), Network(UserNet)],
        [
            ResNet((1, 1, 1, 1), 16),
            VGG(8, input_size=32),
            ViT(2, 24, 2, 2),
            Network(UserNet),
            Timm("test_resnet", input_size=32),
            Timm("test_vit", input_size=48),
            Torchvision("resnet18", input_size=32),
        ],
    ),
    ids=lambda model: model.label,
)
def test_adapter_computes_the_teachers_logits_from_the_teachers_embedding(teacher: Model) -> None:
    run = run_with(teacher)
    NetworkChecks(digits()).require_method_fits(run)
    live = teacher_of(run)
    training = make_train_state(run, digits(), choose_compute(CPU, "fp32"), live)
    outputs = live(next(training.loader.epoch(0)))
    assert outputs is not None and outputs.embedding is not None
    assert isinstance(training.objective.adapter, nn.ModuleDict)
    logits = training.objective.adapter["classifier"](outputs.embedding)
    torch.testing.assert_close(logits, outputs.logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        (TWO_HEADS, "teacher.model = vit2-w24-p2-token has 2 heads; use another teacher or method"),
        (
            Network(UserNet, embedding="classifier"),
            "has no such layer; leave teacher.model.embedding = classifier out, or use another teacher",
        ),
        (Timm("resnetv2_18", input_size=32), "teacher.model = resnetv2_18 has no such layer; use another teacher"),
    ],
    ids=["two heads", "another embedding", "a convolution"],
)
def test_a_teacher_without_one_linear_classifier_is_refused_in_one_line(teacher: Model, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        NetworkChecks(digits()).require_method_fits(run_with(teacher))
    text = str(caught.value)
    assert text.startswith(
        "method = SRRL: requires the teacher's classifier, one linear layer from its embedding to its"
    )
    assert message in text and "\n" not in text


def test_a_layer_that_does_not_compute_the_logits_is_refused(tmp_path: Path) -> None:
    """`get_classifier` of this network returns a linear layer, and the logits are scaled after it."""
    (tmp_path / "scaled.py").write_text(SCALED)
    run = run_with(Network(f"{tmp_path}/scaled.py:Scaled", embedding="pool"))
    with pytest.raises(ConfigError, match=r"has no such layer; leave teacher\.model\.embedding = pool out"):
        NetworkChecks(digits()).require_method_fits(run)


SCALED = """
from torch import nn

class Scaled(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.convolution, self.pool = nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(8, num_classes)

    def get_classifier(self):
        return self.head

    def forward(self, x):
        return 3 * self.head(self.pool(self.convolution(x)).flatten(1))
"""


def test_classifier_of_no_teacher_or_of_several_is_refused() -> None:
    with pytest.raises(ConfigError, match="the students have no teacher; add logits to the needs of the method"):
        classifier_of(run_of("baseline"), None)
    several = r"method = KD: requires the teacher.s classifier, .* several teachers; leave teacher_seeds out"
    with pytest.raises(ConfigError, match=several):
        classifier_of(run_of("distilled"), None)


def test_training_moves_the_connector_and_keeps_the_classifier(tmp_path: Path) -> None:
    run = run_with(ResNet((1, 1, 1, 1), 16))
    training = make_train_state(run, digits(), choose_compute(CPU, "fp32"), teacher_of(run))
    adapter = training.objective.adapter
    assert isinstance(adapter, nn.ModuleDict)
    before = {name: tensor.clone() for name, tensor in [*adapter.named_parameters(), *adapter.named_buffers()]}
    training.objective.train()
    training.step(next(training.loader.epoch(0)), run.method.weights(0))
    moved = {
        name for name, p in [*adapter.named_parameters(), *adapter.named_buffers()] if not torch.equal(p, before[name])
    }
    assert {name for name, _ in adapter.named_parameters()} <= moved
    assert not {name for name in moved if name.startswith("classifier.")} and "classifier.weight" in before
    assert not any(name.startswith("adapter.classifier") for name in training.objective.state_dict())


def test_custom_method_trains_with_the_teachers_classifier(tmp_path: Path) -> None:
    """The method is the one in docs/custom_method.md."""
    document = (Path(__file__).parents[2] / "docs" / "custom_method.md").read_text(encoding="utf-8")
    (code,) = (
        code for code in re.findall(r"```python\n(.*?)```", document, flags=re.S) if "TeacherClassifier()" in code
    )
    (tmp_path / "reused.py").write_text(code)
    run = run_of("distilled", method=Method.from_text(f"{tmp_path}/reused.py:Reused"), student=recipe(epochs=2))
    NetworkChecks(digits()).require_method_fits(run)
    first, last = train(run, RunFolder(tmp_path / "run"))
    assert last.terms["reused"] < first.terms["reused"]


# Cached teachers


def trained_and_cached(run: Run, folder: Path) -> tuple[LiveTeacher, CachedTeacher]:
    """Train the teacher of `run`, and return it live, and cached with its embeddings."""
    assert run.teacher is not None
    trained = RunFolder(folder / "teacher")
    train(run.teacher, trained)
    live = load_live_teacher([trained], CPU)
    made = experiment(student=run.recipe, method=run.method, teacher_source="cache")
    plan = make_plan(made, digits(), NO_WEIGHTS)
    found = choose_teacher(plan, digits(), (), folder, [trained])
    assert found is not None and found.cache is not None and found.cache.embedding_width == 128
    cache = LogitCache(folder, found.cache.key(digits(), live.identity))
    live.model.request({"embedding"})  # type: ignore[operator]
    Filler(found.cache, digits(), cache, live.model, choose_compute(CPU, run.recipe.precision)).fill(0)
    return live, load_cached_teacher(run, digits(), cache, CPU, [trained])


def test_cached_teacher_trains_as_the_live_one_and_resumes_with_the_same_bits(tmp_path: Path) -> None:
    run = run_of("distilled", method=SRRL(), student=recipe(epochs=2))
    live, cached = trained_and_cached(run, tmp_path)
    of_live = train(run, RunFolder(tmp_path / "live"), live)
    of_cache = train(run, RunFolder(tmp_path / "cache"), cached)
    for one, other in zip(of_live, of_cache, strict=True):
        assert other.terms == pytest.approx(one.terms, rel=2e-2)
    left = iter([False] * 5 + [True])
    with pytest.raises(Interrupted):
        train(run, RunFolder(tmp_path / "interrupted"), cached, should_stop=lambda: next(left))
    resumed = train(run, RunFolder(tmp_path / "interrupted"), cached)
    assert resumed[-1].terms == of_cache[-1].terms


def test_mean_of_several_teachers_has_no_classifier() -> None:
    with pytest.raises(ConfigError, match="the method needs their embedding, which cannot be averaged"):
        experiment(method=SRRL(), teacher_seeds=(0, 1))
