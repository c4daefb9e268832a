"""Tests of every method: it trains on the digits through the loop, resumes exactly, and declares its needs."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from nightly import QUICK_METHODS, nightly_except, nightly_unless
from safetensors.torch import load_file
from small_runs import WIDTH, curve, digits, experiment, recipe, run_of, teacher_of, train
from torch import nn

from raykd.config import kinds
from raykd.errors import Interrupted
from raykd.methods import CRD, DKD, KD, FeatureMethod, Method, StageMethod, TeacherClassifier
from raykd.models import ImageModel
from raykd.models.four_stage_resnet import ResNet
from raykd.outputs import Outputs, Targets
from raykd.spec.overrides import override
from raykd.spec.plan import Run
from raykd.store.run_folder import RunFolder
from raykd.training.hooks import EpochReport
from raykd.training.network_checks import NetworkChecks
from raykd.training.teacher.sources import CachedTeacher, LiveTeacher

LOGITS_ONLY = {"kd", "dkd", "standardized_dkd", "dist", "logit_standardization", "hard_labels"}
EMBEDDING = {"feature_kd", "rkd", "pkt", "cc", "crd", "srrl"}
MAPS = {"fitnets", "at", "sp", "nst", "vid"}
EMBEDDING_AND_MAPS = {"reviewkd"}
NAMES = sorted(LOGITS_ONLY | EMBEDDING | MAPS | EMBEDDING_AND_MAPS)
QUICK = nightly_unless(lambda name: name in QUICK_METHODS, NAMES)
STOP_AFTER = 6  # steps, of 8
LABELS = torch.arange(40) % 10


def chosen(name: str) -> Method:
    """Return the method that `--set method=NAME` selects; CRD with fewer negatives, to save time."""
    method = override(experiment(), "method", name).method
    return replace(method, negatives=64) if isinstance(method, CRD) else method


def run_with(name: str, **changes: Any) -> Run:
    return run_of("distilled", method=chosen(name), student=recipe(**{"epochs": 2} | changes))


def ended(folder: RunFolder) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
    return load_file(folder.checkpoint), curve(folder)


@dataclass(frozen=True)
class Trained:
    """A run that was trained without interruption by a live teacher, whose weights before it are `before`."""

    run: Run
    folder: RunFolder
    reports: list[EpochReport]
    teacher: LiveTeacher
    before: dict[str, torch.Tensor]


@pytest.fixture(scope="module", params=QUICK)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Train a student with each method once."""
    run, folder = run_with(request.param), RunFolder(tmp_path_factory.mktemp("straight"))
    teacher = teacher_of(run)
    assert isinstance(teacher, LiveTeacher)
    before = {key: tensor.clone() for key, tensor in teacher.model.state_dict().items()}
    return Trained(run, folder, train(run, folder, teacher), teacher, before)


def test_interrupted_method_ends_with_the_same_bits(trained: Trained, tmp_path: Path) -> None:
    run, interrupted = trained.run, RunFolder(tmp_path)
    NetworkChecks(digits()).require_method_fits(run)
    assert set(trained.reports[-1].terms) == {*run.method.weights(0), "loss"}
    left = iter([False] * (STOP_AFTER - 1) + [True])
    with pytest.raises(Interrupted):
        train(run, interrupted, should_stop=lambda: next(left))
    train(run, interrupted)
    assert interrupted.require_record().resumes == 1
    (tensors, history), (expected_tensors, expected_history) = ended(interrupted), ended(trained.folder)
    assert history == expected_history and tensors.keys() == expected_tensors.keys()
    assert all(torch.equal(tensors[key], expected_tensors[key]) for key in tensors), "the resumed run has other bits"


def test_method_does_not_change_its_teacher(trained: Trained) -> None:
    """Batch norm in training mode would follow the student's batches."""
    model = trained.teacher.model
    assert all(torch.equal(tensor, trained.before[key]) for key, tensor in model.state_dict().items())
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("name", QUICK)
def test_method_trains_in_bf16_with_terms_in_float32(name: str, tmp_path: Path) -> None:
    train(run_with(name, precision="bf16", epochs=1), RunFolder(tmp_path))
    tensors, _ = ended(RunFolder(tmp_path))
    assert {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()} == {torch.float32}


class Hiding:
    """A teacher that returns only the outputs that a method needs."""

    source = "live"
    top_classes = None

    def __init__(self, run: Run) -> None:
        teacher, self._needs, self.identity = teacher_of(run), run.method.needs, ""
        assert isinstance(teacher, LiveTeacher) and isinstance(teacher.model, ImageModel)
        teacher.model.request(self._needs, run.method.teacher_preactivations)
        self._teacher, self.network = teacher, teacher.network

    def __call__(self, batch: Any) -> Outputs:
        outputs = self._teacher(batch)
        return Outputs(
            outputs.logits if "logits" in self._needs else torch.empty(0),
            outputs.embedding if "embedding" in self._needs else None,
            outputs.features if "features" in self._needs else (),
        )


def test_method_reads_only_the_outputs_that_it_needs(trained: Trained, tmp_path: Path) -> None:
    hidden = train(trained.run, RunFolder(tmp_path), Hiding(trained.run))
    assert [report.terms for report in trained.reports] == [report.terms for report in hidden]


@pytest.mark.parametrize("name", QUICK)
def test_method_accepts_a_student_of_another_width_and_depth(name: str, tmp_path: Path) -> None:
    reports = train(run_with(name, model=ResNet((1, 2, 1, 1), 3 * WIDTH), epochs=1), RunFolder(tmp_path))
    assert len(reports) == 1


def test_methods_need_logits_and_the_outputs_of_their_group() -> None:
    groups = ((LOGITS_ONLY, set()), (EMBEDDING, {"embedding"}), (MAPS, {"features"}))
    for names, more in (*groups, (EMBEDDING_AND_MAPS, {"embedding", "features"})):
        assert all(kinds(Method)[name].needs == {"logits"} | more for name in names)


@pytest.mark.parametrize("name", nightly_except(["kd", "dkd"], sorted(LOGITS_ONLY)))
def test_method_on_logits_alone_trains_from_a_cache(name: str, tmp_path: Path) -> None:
    run = run_with(name)
    num_views = run.data.views.count
    logits = torch.randn(len(digits().train.labels) * num_views, 10, generator=torch.Generator().manual_seed(0)).half()
    assert len(train(run, RunFolder(tmp_path), CachedTeacher(logits, num_views, "0" * 64))) == 2


def terms_of_random_outputs(method: Method, labels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the method's terms for six of the images with these labels, and for the same outputs at each call."""
    torch.manual_seed(0)  # of the adapter's initial weights, and of drawn negatives
    generator = torch.Generator().manual_seed(0)
    student, teacher = (
        Outputs(
            torch.randn(6, 10, generator=generator),
            torch.randn(6, 8 * times, generator=generator),
            tuple(torch.rand(6, 4 * times, size, size, generator=generator) for size in (8, 4, 2, 1)),
        )
        for times in (1, 2)
    )
    images = Targets(labels, torch.arange(len(labels)))
    targets = Targets(images.labels[3:9], images.index[3:9])
    adapter = method.adapter(student, teacher, images)
    for part in adapter.modules() if adapter is not None else ():
        if isinstance(part, TeacherClassifier):
            part.load(nn.Linear(16, 10))
    return method.terms(student, teacher, targets, adapter)


@pytest.mark.parametrize("name", NAMES)
def test_terms_depend_on_labels_exactly_where_the_method_declares_it(name: str) -> None:
    """A student without a classifier trains with labels of zero if its method declares that it reads none."""
    method = chosen(name)
    by_remainder, by_quotient = (terms_of_random_outputs(method, labels) for labels in (LABELS, LABELS.sort().values))
    depends = any(not torch.equal(by_remainder[term], by_quotient[term]) for term in by_remainder)
    assert depends == method.reads_labels


@pytest.mark.parametrize("name", NAMES)
def test_weights_cover_ce_and_exactly_the_terms(name: str) -> None:
    method = chosen(name)
    terms = terms_of_random_outputs(method, LABELS)
    assert {"ce", *terms} == set(method.weights(0)) == set(method.weights(99))
    assert all(term.shape == () and term.dtype == torch.float32 for term in terms.values())


@pytest.mark.parametrize("name", [name for name in NAMES if issubclass(kinds(Method)[name], FeatureMethod)])
def test_kd_combines_with_every_method_on_features(name: str, tmp_path: Path) -> None:
    """loss = ce_weight * CE + kd_weight * KD + the method's own terms, at any temperature."""
    configured = experiment(student=recipe(epochs=1))
    for setting in (f"method={name}", "method.kd_weight=0.9", "method.ce_weight=0.1", "method.temperature=2"):
        configured = override(configured, *setting.split("=", 1))
    assert isinstance(configured.method, FeatureMethod)
    weights, alone = configured.method.weights(0), chosen(name).weights(0)
    assert weights == alone | {"ce": 0.1, "kd": 0.9} and alone["kd"] == 0 and alone["ce"] == 1
    run = run_of("distilled", method=configured.method, student=configured.student)
    if isinstance(configured.method, CRD):
        run = replace(run, method=replace(configured.method, negatives=64))
    (report,) = train(run, RunFolder(tmp_path))
    expected = sum(weight * report.terms[term] for term, weight in weights.items())
    assert report.terms["loss"] == pytest.approx(expected, rel=1e-4)


def test_soft_targets_of_every_method_are_kds(tmp_path: Path) -> None:
    """In the first step the term equals that of KD alone, temperature^2 included, at weight 0 too."""
    firsts = {}
    for method in (
        KD(temperature=2.0),
        replace(chosen("sp"), temperature=2.0),
        replace(chosen("rkd"), temperature=2.0),
    ):
        one_step = recipe(epochs=1, batch_size=200)
        (report,) = train(run_of("distilled", method=method, student=one_step), RunFolder(tmp_path / method.kind))
        firsts[method.kind] = report.terms["kd"]
    assert firsts["kd"] > 0 and set(firsts.values()) == {firsts["kd"]}


def test_dkds_weights_rise_over_its_first_epochs() -> None:
    method = DKD(alpha=1.0, beta=8.0, warmup_epochs=20.0)
    assert method.weights(0) == {"ce": 1.0, "tckd": 0.0, "nckd": 0.0}
    assert method.weights(10) == {"ce": 1.0, "tckd": 0.5, "nckd": 4.0}
    assert method.weights(20) == method.weights(200) == {"ce": 1.0, "tckd": 1.0, "nckd": 8.0}
    assert replace(method, warmup_epochs=0.0).weights(0) == method.weights(20)


@pytest.mark.parametrize("name", nightly_except(["fitnets"], sorted(MAPS | EMBEDDING_AND_MAPS)))
def test_stages_are_chosen_by_number(name: str, tmp_path: Path) -> None:
    run = run_with(name)
    assert isinstance(run.method, StageMethod)
    losses = set()
    for stages in ((0,), (3,), (-1,), (1, 2)):
        (*_, report) = train(
            replace(run, method=replace(run.method, stages=stages)), RunFolder(tmp_path / "-".join(map(str, stages)))
        )
        losses.add(report.terms["loss"])
    assert len(losses) == 3, "(3,) and (-1,) are the same stage, the others are not"
