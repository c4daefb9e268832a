"""Train, validation and test splits: the choice of the split to test on, and of the validation images.

Validation splits and subsets are stratified: each class has the same fraction as before. Each image has a hash of
(stream, seed, its index), and a class contributes the images with the smallest hashes. No global random state is read
or changed, and the choice is the same on every machine and with every version of torch.
"""

from collections.abc import Collection, Sequence
from pathlib import Path

import torch
from torch import Tensor

from raykd.data.counter_rng import SPLIT, SUBSET, hash64
from raykd.errors import DataError, plural

TRAIN = "train"
TEST = "test"
VALIDATION = ("validation", "valid", "val", "dev")  # names under which data sets publish a validation split
SPLIT_NAMES = (TRAIN, TEST, *VALIDATION)
DATA_NAME_REMEDY = "data.name must be a folder below --data-dir or an absolute path"
_MAX_LISTED = 4


def has_train_and_test(splits: Collection[str]) -> bool:
    """Return whether the splits on disk include one to train on and one to test on."""
    return TRAIN in splits and len(splits) > 1


def choose_test_split(
    place: Path, splits: Collection[str], layout: str, noun: str, existing: Sequence[str]
) -> tuple[str, tuple[str, ...]]:
    """Return (name, notes) of the split to test on: `test`, else the only validation split.

    Validation images are always taken from `train` (data.val_images), so a published validation split can serve as
    the test split, as ImageNet's does.

    Args: splits are the names at `place`, from SPLIT_NAMES. The others are for messages: noun is the form of a split
        on disk ('folder'), layout is the expected one, and existing are the names of the entries at `place`.
    Raises DataError if there is no `train`, nothing to test on, or several validation splits and no `test`.
    """
    more = ", ..." if len(existing) > _MAX_LISTED else ""
    instead = f"; there are: {', '.join(existing[:_MAX_LISTED])}{more}" if existing else ""
    if TRAIN not in splits:
        raise DataError(f"{place}: has no {noun} {TRAIN}; requires {layout}{instead}")
    validation = [name for name in VALIDATION if name in splits]
    quoted = " and ".join(f"'{name}'" for name in validation)
    if TEST in splits:
        unread = f"{quoted} is not read: '{TEST}' is the test split, and validation images are taken from '{TRAIN}'"
        return TEST, (unread,) if validation else ()
    if not validation:
        raise DataError(f"{place}: has no {noun} {TEST}; requires {layout}{instead}")
    if len(validation) > 1:
        raise DataError(f"{place}: has {quoted} and no '{TEST}'; rename the one to test on to '{TEST}'")
    return validation[0], (f"{quoted} is the test split, because there is no '{TEST}'",)


def stratified_split(labels: Tensor, num_val: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return (train, validation): indices into labels, int64, ascending, that together cover all images once.

    Args: labels is integer [N], classes from 0. 0 <= num_val < N, so that training images remain.
    Returns: [N - num_val] and [num_val]. The validation split has every class in proportion to its size, to within
        one image.
    Raises DataError if num_val is out of that range.
    """
    if not 0 <= num_val < len(labels):
        most = len(labels) - 1
        raise DataError(f"cannot validate on {num_val:,} of {plural(len(labels), 'image')}; give 0 to {most:,}")
    chosen = _choose(labels, num_val, SPLIT, seed)
    return (~chosen).nonzero().flatten(), chosen.nonzero().flatten()


def stratified_subset(labels: Tensor, num: int, seed: int) -> Tensor:
    """Return num indices into labels, int64 [num], ascending, in proportion to each class to within one image.

    Args: labels is integer [N], classes from 0. 1 <= num <= N.
    Raises DataError if num is out of that range.
    """
    if not 1 <= num <= len(labels):
        raise DataError(f"cannot choose {num:,} of {plural(len(labels), 'image')}; give 1 to {len(labels):,}")
    return _choose(labels, num, SUBSET, seed).nonzero().flatten()


def _choose(labels: Tensor, num: int, stream: int, seed: int) -> Tensor:
    """Return bool [N], True for num images."""
    labels = labels.cpu()
    by_hash = hash64(stream, seed, torch.arange(len(labels))).argsort(stable=True)
    order = by_hash[labels[by_hash].argsort(stable=True)]  # by class, and by hash in each class
    sizes = torch.bincount(labels)
    place_in_class = torch.arange(len(labels)) - (sizes.cumsum(0) - sizes)[labels[order]]
    quotas = torch.tensor(_quotas(sizes.tolist(), num))
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    chosen[order[place_in_class < quotas[labels[order]]]] = True
    return chosen


def _quotas(sizes: list[int], num: int) -> list[int]:
    """Distribute num in proportion to sizes: rounded down, then one more for the largest remainders.

    In integers, so that no rounding decides a tie; among equal remainders the lower class comes first.
    """
    total = sum(sizes)
    quotas = [num * size // total for size in sizes]
    remainders = [num * size % total for size in sizes]
    by_remainder = sorted(range(len(sizes)), key=lambda label: (-remainders[label], label))
    for label in by_remainder[: num - sum(quotas)]:
        quotas[label] += 1
    return quotas
