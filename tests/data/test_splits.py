"""Validation splits and subsets: stratification, determinism, independence."""

import pytest
import torch

from raykd.data.splits import stratified_split, stratified_subset
from raykd.errors import DataError

BALANCED = torch.arange(10).repeat(500)
SKEWED = torch.repeat_interleave(torch.arange(4), torch.tensor([700, 200, 97, 3]))[torch.randperm(1_000)]


def test_validation_split_has_the_same_number_of_each_class() -> None:
    train, val = stratified_split(BALANCED, 500, seed=0)
    assert BALANCED[val].bincount().tolist() == [50] * 10
    assert BALANCED[train].bincount().tolist() == [450] * 10


def test_training_and_validation_images_are_all_images_once() -> None:
    train, val = stratified_split(BALANCED, 137, seed=1)
    assert torch.cat([train, val]).sort().values.equal(torch.arange(len(BALANCED)))
    assert len(val) == 137


@pytest.mark.parametrize("num", [1, 3, 10, 333, 999])
def test_unequal_classes_keep_their_shares_to_within_one_image(num: int) -> None:
    for rows in (stratified_split(SKEWED, num, seed=0)[1], stratified_subset(SKEWED, num, seed=0)):
        assert len(rows) == num
        share = SKEWED.bincount() * num / len(SKEWED)
        assert ((SKEWED[rows].bincount(minlength=4) - share).abs() < 1).all()


def test_indices_ascend() -> None:
    for rows in (*stratified_split(BALANCED, 100, seed=0), stratified_subset(BALANCED, 100, seed=0)):
        assert (rows.diff() > 0).all()


def test_choice_depends_on_the_seed_alone() -> None:
    first = stratified_split(BALANCED, 100, seed=0)[1]
    torch.manual_seed(1)
    assert first.equal(stratified_split(BALANCED, 100, seed=0)[1])
    assert not first.equal(stratified_split(BALANCED, 100, seed=1)[1])


def test_subset_is_not_the_validation_split_of_the_same_seed() -> None:
    val = set(stratified_split(BALANCED, 500, seed=0)[1].tolist())
    subset = set(stratified_subset(BALANCED, 500, seed=0).tolist())
    assert len(val & subset) < 100  # 50 by chance


def test_larger_subset_contains_the_smaller_one() -> None:
    smaller, larger = stratified_subset(BALANCED, 100, seed=0), stratified_subset(BALANCED, 1_000, seed=0)
    assert set(smaller.tolist()) < set(larger.tolist())


def test_validation_split_may_be_empty_and_subset_may_be_complete() -> None:
    train, val = stratified_split(BALANCED, 0, seed=0)
    assert (len(train), len(val)) == (5_000, 0)
    assert stratified_subset(BALANCED, 5_000, seed=0).equal(torch.arange(5_000))


@pytest.mark.parametrize("num", [-1, 5_000, 9_999])
def test_impossible_validation_split_is_refused(num: int) -> None:
    with pytest.raises(DataError, match=f"{num:,} of 5,000 images; give 0 to 4,999"):
        stratified_split(BALANCED, num, seed=0)


@pytest.mark.parametrize("num", [-1, 0, 5_001])
def test_impossible_subset_is_refused(num: int) -> None:
    with pytest.raises(DataError, match=f"{num:,} of 5,000 images; give 1 to 5,000"):
        stratified_subset(BALANCED, num, seed=0)
