"""Tests of the statistics of the import check, on confusion matrices for which the right decision is known."""

import pytest
import torch
from nightly import nightly_except, nightly_unless
from torch import Tensor

from raykd.training.teacher.import_check import LEVEL, chance_accuracy, find_permutation, is_near_chance


def drawn(shares: Tensor, num_images: int, seed: int, label_shares: Tensor | None = None) -> Tensor:
    """Confusion of num_images, given each label's shares of predictions [C, C]."""
    generator = torch.Generator().manual_seed(seed)
    classes = len(shares)
    of_label = torch.ones(classes) if label_shares is None else label_shares
    labels = torch.multinomial(of_label, num_images, replacement=True, generator=generator)
    predicted = torch.multinomial(shares[labels], 1, generator=generator)[:, 0]
    return torch.bincount(labels * classes + predicted, minlength=classes**2).view(classes, classes)


def correct_at(accuracy: float, classes: int) -> Tensor:
    """Shares of predictions that are right with `accuracy` and otherwise spread evenly."""
    wrong = (1 - accuracy) / (classes - 1)
    return torch.full((classes, classes), wrong) + torch.eye(classes) * (accuracy - wrong)


@pytest.mark.parametrize("classes", nightly_except([2, 10], [2, 10, 100]))
@pytest.mark.parametrize("imbalance", [1.0, 20.0])
def test_random_guesses_pass_no_more_often_than_the_level(classes: int, imbalance: float) -> None:
    shares = torch.linspace(1, imbalance, classes)
    passed = sum(not is_near_chance(drawn(shares.expand(classes, -1), 1000, seed, shares)) for seed in range(400))
    assert passed <= 3, f"400 draws at level {LEVEL}"


def test_a_constant_prediction_is_chance_whichever_class_it_is() -> None:
    labels = torch.tensor([950, 50])
    for predicted in (0, 1):
        confusion = torch.zeros(2, 2, dtype=torch.int64)
        confusion[:, predicted] = labels
        assert is_near_chance(confusion)
        assert chance_accuracy(confusion) == pytest.approx(labels[predicted].item() / 1000)


def test_a_teacher_that_finds_a_rare_class_is_above_chance() -> None:
    """96 % where 95 % of all images are of one class: no more right than a constant prediction, and no guess."""
    assert not is_near_chance(torch.tensor([[930, 20], [5, 45]]))
    assert not is_near_chance(torch.tensor([[880, 70], [2, 48]])), "below the share of the largest class"


WEAK = [(10, 0.25), (100, 0.06), (2, 0.6), (1000, 0.02)]


@pytest.mark.parametrize(("classes", "accuracy"), nightly_unless(lambda case: case[0] < 1000, WEAK))
def test_a_weak_teacher_is_above_chance_and_not_permuted(classes: int, accuracy: float) -> None:
    for seed in range(30):
        confusion = drawn(correct_at(accuracy, classes), 2000, seed)
        assert not is_near_chance(confusion)
        assert find_permutation(confusion) == {}


def test_a_teacher_that_confuses_neighbours_is_not_permuted() -> None:
    """Each class is predicted as the next one nearly as often as itself, and one frequent class as a rare one."""
    shares = 0.45 * torch.eye(20) + 0.40 * torch.eye(20).roll(1, 1) + 0.15 / 20
    assert all(find_permutation(drawn(shares, 3000, seed)) == {} for seed in range(30))
    assert find_permutation(torch.tensor([[400, 600], [0, 10]])) == {}


@pytest.mark.parametrize("moved", [{0: 1, 1: 0}, {0: 3, 3: 7, 7: 0}, {index: (index + 1) % 10 for index in range(10)}])
@pytest.mark.parametrize("accuracy", [0.7, 0.98])
def test_permuted_classes_are_found_one_by_one(moved: dict[int, int], accuracy: float) -> None:
    order = torch.tensor([moved.get(index, index) for index in range(10)])
    shares = torch.zeros(10, 10).index_copy_(1, order, correct_at(accuracy, 10))
    assert find_permutation(drawn(shares, 1000, 0)) == moved
