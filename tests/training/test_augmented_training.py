"""Tests of training with augmentation: mixed labels, one batch for teacher and student, no logit cache."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_runs import CPU, digits, experiment, recipe, run_of, teacher_of, train
from torch import Tensor

from raykd.data.augmentation import Augmentation
from raykd.data.loader import Batch
from raykd.methods import KD
from raykd.outputs import Outputs
from raykd.spec.plan import Run
from raykd.spec.recipe import SGD, AdamW
from raykd.store.run_folder import RunFolder
from raykd.training.compute import choose_compute
from raykd.training.group import SINGLE_WORKER, Group
from raykd.training.teacher.load import load_live_teacher
from raykd.training.teacher.sources import CachedTeacher, Teacher
from raykd.training.training_step import TrainState, make_train_state

EVERYTHING = Augmentation(crop_area=0.3, randaugment=(2, 9), cutout=3, mixup=0.8, cutmix=1.0)


def training_of(run: Run, teacher: Teacher | None = None, group: Group = SINGLE_WORKER) -> TrainState:
    return make_train_state(run, digits(), choose_compute(CPU, "fp32"), teacher or teacher_of(run), group)


def one_step(training: TrainState) -> tuple[Batch, dict[str, Tensor]]:
    training.objective.train()
    batch = next(training.loader.epoch(0))
    return batch, training.step(batch, training.run.method.weights(0))


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
@pytest.mark.parametrize("augmentation", [Augmentation(mixup=0.8), Augmentation(cutmix=1.0), EVERYTHING])
@pytest.mark.parametrize("stage", ["teacher", "baseline"])
def test_mixed_labels_have_the_shares_of_their_images(
    stage: Any, augmentation: Augmentation, label_smoothing: float
) -> None:
    """share * CE(own) + (1 - share) * CE(partner's), which is the cross-entropy of the mixed one-hot targets."""
    changed = recipe(augmentation=augmentation, label_smoothing=label_smoothing)
    run = run_of(stage, teacher=changed, student=changed)
    reference = training_of(run)
    batch, terms = one_step(training_of(run))
    assert batch.mixed is not None
    reference.objective.train()
    log_p = reference.objective.student(batch.images).logits.log_softmax(1).double()
    share = batch.mixed.share.double()[:, None]
    target = share * F.one_hot(batch.labels, 10) + (1 - share) * F.one_hot(batch.mixed.labels, 10)
    target = (1 - label_smoothing) * target + label_smoothing / 10
    assert terms["ce"].item() == pytest.approx(-(target * log_p).sum(1).mean().item(), rel=1e-5)


def test_top1_in_training_counts_the_label_with_the_larger_share() -> None:
    run = run_of("baseline", student=recipe(augmentation=EVERYTHING))
    reference = training_of(run)
    batch, terms = one_step(training_of(run))
    reference.objective.train()
    right = reference.objective.student(batch.images).logits.argmax(1) == batch.labels
    assert terms["top1"].item() == pytest.approx(100 * right.float().mean().item())
    assert torch.equal(batch.labels, digits().train.labels[batch.index])


class Watching:
    """A live teacher that keeps the pixels it was shown."""

    source = "live"
    top_classes = None

    def __init__(self, teacher: Teacher) -> None:
        self._teacher, self.identity, self.network = teacher, teacher.identity, teacher.network
        self.seen: list[Tensor] = []

    def __call__(self, batch: Batch) -> Outputs | None:
        self.seen.append(batch.images.clone())
        return self._teacher(batch)


@pytest.mark.parametrize("rank", [0, 1])
def test_teacher_and_student_get_the_same_augmented_pixels(rank: int) -> None:
    """Return the batches of each of two workers. Together they equal those of a single worker."""
    run = run_of("distilled", student=recipe(augmentation=EVERYTHING))
    watching = Watching(teacher_of(run))
    training = training_of(run, watching, Group(rank=rank, size=2))
    watching.seen.clear()
    shown: list[Tensor] = []
    training.objective.student.register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0].clone()))
    one_step(training)
    whole = next(training_of(run).loader.epoch(0)).images
    assert len(watching.seen) == len(shown) == 1
    assert torch.equal(watching.seen[0], shown[0])
    assert torch.equal(shown[0], whole.chunk(2)[rank])


def test_augmented_run_is_not_trained_from_a_cache() -> None:
    run = run_of("distilled", student=recipe(augmentation=Augmentation(cutout=3)))
    logits = torch.zeros(1_200 * run.data.views.count, 10, dtype=torch.float16)
    with pytest.raises(AssertionError, match="a logit cache has no rows for augmented pixels"):
        training_of(run, CachedTeacher(logits, run.data.views.count, "ab" * 32))


@pytest.mark.nightly
def test_student_learns_its_teachers_function_without_labels(tmp_path: Path) -> None:
    """A teacher under cutout and mixup; then soft targets alone, one aggressive view, as the patient recipe has it."""
    whole = replace(experiment().data, train_images=None, flip=False)
    changes: dict[str, Any] = {
        "data": whole,
        "teacher": recipe(epochs=10, optimizer=SGD(lr=0.1), augmentation=Augmentation(cutout=2, mixup=0.2)),
        "student": recipe(
            epochs=20,
            optimizer=AdamW(lr=1e-2, weight_decay=0.05),
            clip_gradient_norm=1.0,
            augmentation=Augmentation(crop_area=0.3, mixup=1.0),
        ),
        "method": KD(alpha=0.0, temperature=1.0),
    }
    teacher, distilled = run_of("teacher", **changes), run_of("distilled", **changes)
    reports = train(teacher, RunFolder(tmp_path / "teacher"))
    assert reports[-1].best_val_top1 > 90
    live = load_live_teacher([RunFolder(tmp_path / "teacher")], CPU)
    reports = train(distilled, RunFolder(tmp_path / "student"), live)
    assert reports[-1].terms["loss"] == reports[-1].terms["kd"] < reports[0].terms["kd"] / 4
    assert reports[-1].best_val_top1 > 88
