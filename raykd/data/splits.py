"""Which images are held out or kept: a fixed choice for each seed, in which classes keep their shares.

Each image has a hash of (stream, seed, its row); a class gives the images with the smallest hashes. So no
global random state is read or moved, and the choice is the same on every machine and in every torch.
"""

import torch
from torch import Tensor

from raykd.data.counter_rng import SPLIT, SUBSET, hash64
from raykd.errors import DataError, plural


def stratified_holdout(labels: Tensor, num_held_out: int, seed: int) -> tuple[Tensor, Tensor]:
    """(kept, held out): rows of labels, int64, ascending, that together are all rows once.

    Args: labels is integer [N], classes from 0. 0 <= num_held_out < N: something is left to train on.
    Returns: [N - num_held_out] and [num_held_out]. Every class is held out in proportion to its size, to
        within one image.
    Raises: DataError when num_held_out is out of that range.
    """
    if not 0 <= num_held_out < len(labels):
        most = len(labels) - 1  # one at least stays to train on
        raise DataError(f"cannot hold out {num_held_out:,} of {plural(len(labels), 'image')}; give 0 to {most:,}")
    chosen = _choose(labels, num_held_out, SPLIT, seed)
    return (~chosen).nonzero().flatten(), chosen.nonzero().flatten()


def stratified_subset(labels: Tensor, num: int, seed: int) -> Tensor:
    """num rows of labels, int64 [num], ascending; every class keeps its share to within one image.

    Args: labels is integer [N], classes from 0. 1 <= num <= N.
    Raises: DataError when num is out of that range.
    """
    if not 1 <= num <= len(labels):
        raise DataError(f"cannot keep {num:,} of {plural(len(labels), 'image')}; give 1 to {len(labels):,}")
    return _choose(labels, num, SUBSET, seed).nonzero().flatten()


def _choose(labels: Tensor, num: int, stream: int, seed: int) -> Tensor:
    """bool [N], True for num rows."""
    labels = labels.cpu()
    ranks = hash64(stream, seed, torch.arange(len(labels)))
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for label, quota in enumerate(_quotas(torch.bincount(labels).tolist(), num)):
        rows = (labels == label).nonzero().flatten()
        chosen[rows[ranks[rows].argsort(stable=True)[:quota]]] = True
    return chosen


def _quotas(sizes: list[int], num: int) -> list[int]:
    """num shared out in proportion to sizes: rounded down, then the largest remainders get one more.

    Whole numbers throughout, so no rounding decides a tie; equal remainders go to the lower class.
    """
    total = sum(sizes)
    quotas = [num * size // total for size in sizes]
    remainders = [num * size % total for size in sizes]
    by_remainder = sorted(range(len(sizes)), key=lambda label: (-remainders[label], label))
    for label in by_remainder[: num - sum(quotas)]:
        quotas[label] += 1
    return quotas
