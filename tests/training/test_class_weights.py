"""Class weights: their scale, and the weighted cross-entropy against a slow reference in float64."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_runs import CPU, digits, recipe, run_of, teacher_of

from raykd.data.types import Dataset, Split
from raykd.errors import ConfigError
from raykd.outputs import Mixed, Targets
from raykd.spec.plan import Run, _check_class_weights, train_val_indices
from raykd.training.compute import choose_compute
from raykd.training.training_step import class_weights_of, make_train_state


def imbalanced() -> Dataset:
    """Return the digits with a tenth of the images of classes 5 to 9."""
    train = digits().train
    kept = (train.labels < 5) | (torch.arange(len(train)) % 10 == 0)
    return replace(digits(), train=Split(train.images[kept], train.labels[kept]))


def test_balanced_weights_are_reciprocal_to_the_classes_with_a_mean_of_1() -> None:
    run, dataset = run_of("baseline", student=recipe(class_weights="balanced")), imbalanced()
    weights = class_weights_of(run, dataset)
    assert weights is not None
    labels = dataset.train.labels[train_val_indices(run.data, dataset.train.labels)[0]]
    counts = torch.bincount(labels)
    torch.testing.assert_close(weights, (len(labels) / (10 * counts)).float())
    assert weights[labels].mean().item() == pytest.approx(1, abs=1e-6)


def test_given_weights_keep_their_ratios_with_a_mean_of_1() -> None:
    run, dataset = run_of("baseline", student=recipe(class_weights=(0, *range(2, 11)))), imbalanced()
    weights = class_weights_of(run, dataset)
    assert weights is not None and weights[0] == 0
    torch.testing.assert_close(weights[1:] / weights[1], torch.arange(2, 11) / 2)
    labels = dataset.train.labels[train_val_indices(run.data, dataset.train.labels)[0]]
    assert weights[labels].mean().item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("is_mixed", [False, True])
def test_cross_entropy_weights_each_image_by_its_label(is_mixed: bool) -> None:
    run = run_of("baseline", student=recipe(class_weights=tuple(range(1, 11)), label_smoothing=0.2))
    training = make_train_state(run, digits(), choose_compute(CPU, "fp32"), teacher_of(run))
    weights = training.objective.class_weights
    assert weights is not None and "class_weights" not in training.objective.state_dict()
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(12, 10, generator=generator)
    labels, others = (torch.randint(10, (12,), generator=generator) for _ in range(2))
    share = 0.5 + torch.rand(12, generator=generator) / 2
    mixed = Mixed(others, share) if is_mixed else None
    found = training.objective._cross_entropy(logits, Targets(labels, labels, mixed))

    log_p = np.log(np.exp(logits.double().numpy()) / np.exp(logits.double().numpy()).sum(1, keepdims=True))
    target = 0.8 * np.eye(10) + 0.02
    w, parts = weights.double().numpy(), []
    for label, other, weight, row in zip(labels, others, share.double().numpy(), log_p, strict=True):
        own, mixed_in = (-w[number] * (target[number] * row).sum() for number in (label, other))
        parts.append(weight * own + (1 - weight) * mixed_in if is_mixed else own)
    assert found.item() == pytest.approx(np.mean(parts), rel=1e-6)


def test_equal_weights_are_no_weights_up_to_rounding() -> None:
    run = run_of("baseline", student=recipe(class_weights=(1.0,) * 10))
    training = make_train_state(run, digits(), choose_compute(CPU, "fp32"), teacher_of(run))
    logits, labels = torch.randn(8, 10), torch.arange(8)
    found = training.objective._cross_entropy(logits, Targets(labels, labels))
    torch.testing.assert_close(found, torch.nn.functional.cross_entropy(logits, labels))


def test_one_weight_per_class_is_required() -> None:
    with pytest.raises(ConfigError, match=r"student\.class_weights has 2 numbers, and digits has 10 classes; give one"):
        run_of("baseline", student=recipe(class_weights=(1, 2)))


def test_a_training_image_must_have_a_weight() -> None:
    train = digits().train
    kept = train.labels < 5
    dataset = replace(digits(), train=Split(train.images[kept], train.labels[kept]))
    weights = (0.0,) * 5 + (1.0,) * 5
    with pytest.raises(ConfigError, match=r"student\.class_weights = \(0\.0, .*: every class with training images has"):
        _check_class_weights(run_of("baseline", student=recipe(class_weights=weights)), dataset)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_weights": (0.0, 0.0)}, "numbers of 0 or more, not all 0"),
        ({"class_weights": (-1.0, 1.0)}, r"class_weights = \(-1.0, 1.0\) in Recipe: must be at least 0"),
        ({"class_weights": "balanced", "sampling": "balanced"}, "would balance twice with sampling = balanced"),
    ],
)
def test_weights_that_cannot_be_meant_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        recipe(**changes)


def test_defaults_keep_the_fingerprint() -> None:
    assert Run(recipe=recipe(class_weights="none", sampling="shuffle")).fingerprint == Run(recipe=recipe()).fingerprint
