"""Tests of the metrics of a trained model, against slow NumPy in float64 and torchmetrics."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from small_runs import CPU, digits
from torch import Tensor

from raykd.data.types import Split
from raykd.models import ImageModel, ImageSpec
from raykd.outputs import Outputs
from raykd.store.records import Metrics
from raykd.training.compute import EVALUATION_BATCH, choose_compute
from raykd.training.evaluate import evaluate, predictions
from raykd.training.metrics import NUM_BINS, compute_metrics

NUM_IMAGES = 400
COMPUTE = choose_compute(CPU, "fp32")


class Says(ImageModel):
    """Gives row i of a table of logits for an image whose first two pixels say i."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__(torch.nn.Identity(), lambda _, pixels: Outputs(pixels), ImageSpec(10, 2, (0,) * 3, (1,) * 3))
        self.logits = logits

    def forward(self, images: Tensor) -> Outputs:
        return Outputs(self.logits[images[:, 0, 0, 0].long() * 256 + images[:, 0, 0, 1].long()])


@dataclass(frozen=True)
class Case:
    """logits and target: float32 [N, C]. labels: int64 [N]."""

    logits: Tensor
    target: Tensor
    labels: Tensor

    @property
    def split(self) -> Split:
        images = torch.zeros(len(self.labels), 3, 2, 2, dtype=torch.uint8)
        numbers = torch.arange(len(self.labels))
        images[:, 0, 0, 0], images[:, 0, 0, 1] = (numbers // 256).byte(), (numbers % 256).byte()
        return Split(images, self.labels)

    def measured(self) -> Metrics:
        return compute_metrics(Says(self.logits), self.split, COMPUTE, self.logits.shape[1], Says(self.target))


def case(num_classes: int = 10, scale: float = 3.0, seed: int = 0, num_images: int = NUM_IMAGES) -> Case:
    """Logits that lean to the label, so that all bins of confidence have images."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(num_classes, (num_images,), generator=generator)
    lean = scale * torch.nn.functional.one_hot(labels, num_classes) * torch.rand(num_images, 1, generator=generator)
    logits = lean + scale * torch.randn(num_images, num_classes, generator=generator)
    target = logits + scale * torch.randn(num_images, num_classes, generator=generator)
    return Case(logits, target, labels)


def slowly(given: Case) -> dict[str, float]:
    """The definitions at the top of metrics.py, image by image."""
    logits, target = given.logits.numpy().astype(np.float64), given.target.numpy().astype(np.float64)
    sums = dict.fromkeys(("top1", "top5", "nll", "brier", "agreement", "teacher_kl"), 0.0)
    bins = [[0, 0.0, 0] for _ in range(NUM_BINS)]
    for z, t, label in zip(logits, target, given.labels.tolist(), strict=True):
        log_p = z - z.max() - math.log(np.exp(z - z.max()).sum())
        log_q = t - t.max() - math.log(np.exp(t - t.max()).sum())
        p, q = np.exp(log_p), np.exp(log_q)
        predicted, confidence = int(np.argmax(z)), float(p.max())
        sums["top1"] += 100 * (predicted == label)
        sums["top5"] += 100 * (label in np.argsort(-z)[:5])
        sums["nll"] -= log_p[label]
        sums["brier"] += sum((p[k] - (k == label)) ** 2 for k in range(len(p)))
        sums["agreement"] += 100 * (predicted == int(np.argmax(t)))
        sums["teacher_kl"] += sum(q[k] * (log_q[k] - log_p[k]) for k in range(len(p)))
        found = next(b for b in range(NUM_BINS) if b / NUM_BINS < confidence <= (b + 1) / NUM_BINS)
        bins[found] = [bins[found][0] + 1, bins[found][1] + confidence, bins[found][2] + (predicted == label)]
    number = len(logits)
    ece = sum(count / number * abs(right / count - total / count) for count, total, right in bins if count)
    return {name: total / number for name, total in sums.items()} | {"ece": ece}


@pytest.mark.parametrize("scale", [0.5, 3.0, 30.0])
@pytest.mark.parametrize("num_classes", [6, 10, 100])
def test_every_metric_equals_its_definition_in_float64(num_classes: int, scale: float) -> None:
    given = case(num_classes, scale)
    found, expected = given.measured(), slowly(given)
    assert {name: getattr(found, name) for name in expected} == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_metrics_do_not_depend_on_the_batch_size(monkeypatch: pytest.MonkeyPatch) -> None:
    given = case()
    whole = given.measured()
    monkeypatch.setitem(EVALUATION_BATCH, "cpu", 7)
    parts = given.measured()
    assert parts.confusion == whole.confusion and parts.reliability.count == whole.reliability.count
    for name in ("top1", "top5", "agreement"):
        assert getattr(parts, name) == getattr(whole, name)
    for name in ("nll", "ece", "brier", "teacher_kl"):
        assert getattr(parts, name) == pytest.approx(getattr(whole, name), rel=1e-12)


def test_accuracy_and_loss_are_those_of_the_training_loops_evaluation() -> None:
    given = case()
    loop, found = evaluate(Says(given.logits), given.split, COMPUTE), given.measured()
    assert (found.top1, found.num_images) == (loop.top1, loop.num_images)
    assert found.nll == pytest.approx(loop.nll, rel=1e-6)


@pytest.mark.parametrize("num_classes", [6, 100])
def test_confusion_top_5_and_divergence_are_those_of_torchmetrics(num_classes: int) -> None:
    from torchmetrics.functional import kl_divergence
    from torchmetrics.functional.classification import multiclass_accuracy, multiclass_confusion_matrix

    given = case(num_classes)
    logits, target, found = given.logits.double(), given.target.double(), given.measured()
    theirs = multiclass_confusion_matrix(logits, given.labels, num_classes)
    assert found.confusion == tuple(tuple(row) for row in theirs.tolist())
    top5 = multiclass_accuracy(logits, given.labels, num_classes, average="micro", top_k=5)
    assert found.top5 == pytest.approx(100 * float(top5), rel=1e-6)
    divergence = kl_divergence(target.log_softmax(1), logits.log_softmax(1), log_prob=True)
    assert found.teacher_kl == pytest.approx(float(divergence), rel=1e-9)


def test_ece_equals_torchmetrics_except_for_certain_images() -> None:
    """torchmetrics sets a confidence of 1 apart from the others of the last bin, [14/15, 1)."""
    from torchmetrics.functional.classification import multiclass_calibration_error

    usual = case(scale=1.0)
    theirs = multiclass_calibration_error(usual.logits.double(), usual.labels, 10, n_bins=NUM_BINS)
    assert usual.measured().ece == pytest.approx(float(theirs), rel=1e-6)
    # Ten certain and wrong, ten at 0.95 and right: one bin of 20 images, 0.975 sure, half of them right.
    certain, sure = torch.full((10, 10), -1e3), torch.full((10, 10), math.log(0.05 / 9))
    certain[:, 0], sure[:, 0] = 1e3, math.log(0.95)
    labels = torch.tensor([1] * 10 + [0] * 10)
    logits = torch.cat([certain, sure])
    theirs = multiclass_calibration_error(logits.double(), labels, 10, n_bins=NUM_BINS)
    assert Case(logits, logits, labels).measured().ece == pytest.approx(0.475, abs=1e-6)
    assert float(theirs) == pytest.approx(0.525, abs=1e-6), "their bins are now ours: use them"


def test_a_perfect_and_a_uniform_model_have_the_expected_metrics() -> None:
    labels = torch.arange(10).repeat(5)
    sure = Case(1e4 * torch.nn.functional.one_hot(labels, 10).float(), torch.zeros(50, 10), labels).measured()
    assert (sure.top1, sure.top5, sure.nll, sure.ece, sure.brier) == (100, 100, 0, 0, 0)
    blind = Case(torch.zeros(50, 10), torch.zeros(50, 10), labels).measured()
    assert blind.nll == pytest.approx(math.log(10)) and blind.brier == pytest.approx(0.9)
    assert (blind.agreement, blind.teacher_kl) == (100.0, pytest.approx(0, abs=1e-15))


def test_confusion_classes_and_bins_add_up() -> None:
    found = case(num_images=300).measured()
    assert sum(map(sum, found.confusion)) == sum(found.reliability.count) == found.num_images == 300
    right = sum(found.confusion[label][label] for label in range(10))
    assert found.top1 == 100 * right / 300
    for label, top1 in enumerate(found.class_top1):
        assert top1 == 100 * found.confusion[label][label] / sum(found.confusion[label])
    for number, (count, confidence, accuracy) in enumerate(
        zip(found.reliability.count, found.reliability.confidence, found.reliability.accuracy, strict=True)
    ):
        assert (confidence is None) == (accuracy is None) == (count == 0)
        if confidence is not None:
            assert number / NUM_BINS < confidence <= (number + 1) / NUM_BINS


def test_confusion_is_indexed_by_label_then_prediction() -> None:
    logits = torch.nn.functional.one_hot(torch.tensor([2, 2, 0]), 3).float()
    found = Case(logits, logits, torch.tensor([1, 2, 0])).measured()
    assert found.confusion == ((1, 0, 0), (0, 0, 1), (0, 0, 1))
    assert found.class_top1 == (100.0, 0.0, 100.0)


def test_a_class_without_images_and_too_few_classes_for_five_are_none() -> None:
    logits = torch.eye(5)
    found = Case(logits[:3], logits[:3], torch.tensor([0, 1, 2])).measured()
    assert found.class_top1[3:] == (None, None) and found.top5 is None


def test_without_a_teacher_there_is_no_agreement() -> None:
    given = case()
    found = compute_metrics(Says(given.logits), given.split, COMPUTE, 10)
    assert (found.agreement, found.teacher_kl) == (None, None)
    assert found.brier == given.measured().brier


def test_model_is_evaluated_in_evaluation_mode_and_its_mode_restored() -> None:
    modes: list[bool] = []

    class Watched(Says):
        def forward(self, images: Tensor) -> Outputs:
            modes.append(self.training)
            return super().forward(images)

    given = case()
    model = Watched(given.logits).train()
    compute_metrics(model, given.split, COMPUTE, 10)
    assert modes == [False] and model.training


@pytest.mark.parametrize("num_batches", [0, 1])
def test_a_pass_that_is_not_finished_restores_the_mode_of_every_model(num_batches: int) -> None:
    given = case()
    student, teacher = Says(given.logits).train(), Says(given.logits).eval()
    batches = predictions([student, teacher], given.split, COMPUTE)
    for _ in range(num_batches):
        next(batches)
        assert not student.training
    batches.close()
    assert student.training and not teacher.training


def test_bf16_metrics_equal_the_loops_evaluation() -> None:
    """The embedding is rounded by autocast; the logits and all that follows are not."""
    from small_runs import run_of

    from raykd.training.teacher.sources import no_teacher
    from raykd.training.training_step import make_train_state

    compute = choose_compute(CPU, "bf16")
    model = make_train_state(run_of("baseline"), digits(), compute, no_teacher).objective.student
    loop, found = evaluate(model, digits().test, compute), compute_metrics(model, digits().test, compute, 10)
    assert found.top1 == loop.top1 and found.nll == pytest.approx(loop.nll, rel=1e-5)
