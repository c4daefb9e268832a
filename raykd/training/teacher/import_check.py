"""Does an imported teacher fit the data? Weights can have the right names and shapes, and still compute nonsense.

A stem with a max-pool, another normalization or another order of the classes leave no trace in a file. They show in
what the network predicts:

    chance       Its right answers are not clearly more than independent predictions with the same class frequencies
                 would give: n * sum_c p(label c) p(predicted c), which for a constant prediction is all that it gets
                 right. One-sided binomial test.
    other order  Images of class i are predicted as class m(i), and clearly more often than as i, for a permutation m
                 of some classes. One-sided sign test, with a union bound over all permutations of as many classes.
    weak         It gets no more right than the nearest class mean of the raw pixels, which needs no network: a caution.

The first two refuse the teacher. Where few images validate, training images are added: a teacher that fits knows them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from raykd.data.types import Dataset, Split
from raykd.models import ImageModel
from raykd.spec.experiment import Data
from raykd.spec.plan import train_val_indices
from raykd.training.compute import Compute
from raykd.training.metrics import compute_metrics

LEVEL = 1e-3  # the probability of accepting a teacher that guesses, and of calling a fitting one permuted
ENOUGH_IMAGES = 1_000  # 10 classes: chance is 10 %, and 13 % is clearly above it
MEAN_IMAGES, MEAN_SIZE = 10_000, 32  # images averaged for the class means, and pixels on their side

REASONS = (
    "likely reasons: its network has another stem or a max-pool behind it, its images were normalized otherwise "
    "(--set teacher_mean=RED,GREEN,BLUE --set teacher_std=RED,GREEN,BLUE), its classes are in another order, or its "
    "images were preprocessed otherwise"
)


@dataclass(frozen=True)
class Findings:
    """val_top1: in percent of num_images, those that validate. refused: why it does not fit, or ''."""

    val_top1: float
    num_images: int
    refused: str = ""
    cautions: tuple[str, ...] = ()


def accuracy_in_words(found: Findings) -> str:
    """'validation top-1 98.5 % of 200 images'."""
    return f"validation top-1 {found.val_top1:.1f} % of {found.num_images} images"


def in_words(found: Findings) -> str:
    """'imported, validation top-1 98.5 % of 200 images', and its cautions."""
    return f"imported, {accuracy_in_words(found)}{''.join(f'; caution: {caution}' for caution in found.cautions)}"


def check(model: ImageModel, data: Data, dataset: Dataset, compute: Compute) -> Findings:
    """Evaluate an imported teacher on validation and judge whether it fits the data."""
    rows, held_out = train_val_indices(data, dataset.train.labels)
    confusion = _confusion(model, dataset, held_out, compute)
    num_images, correct = int(confusion.sum()), int(confusion.diagonal().sum())
    top1 = 100 * correct / num_images
    if num_images < ENOUGH_IMAGES:
        more = rows[:: max(1, len(rows) // (ENOUGH_IMAGES - num_images))]
        confusion += _confusion(model, dataset, more, compute)
    found = f"its accuracy on validation is {top1:.1f} % ({correct} of {num_images} images)"
    if moved := permuted(confusion):
        return Findings(top1, num_images, f"{found}: {_order_in_words(moved, dataset.class_names)}")
    if is_near_chance(confusion):
        chance = f"not clearly above chance ({100 * chance_of(confusion):.1f} %)"
        return Findings(top1, num_images, f"{found}, {chance}: its weights load but do not fit; {REASONS}")
    simple = _nearest_mean_correct(dataset, rows, held_out)
    if correct > simple:
        return Findings(top1, num_images)
    weak = (
        f"the imported teacher's validation accuracy ({top1:.1f} %) is not above that of the nearest class mean of raw "
        f"pixels ({100 * simple / num_images:.1f} %); {REASONS}"
    )
    return Findings(top1, num_images, cautions=(weak,))


def chance_of(confusion: Tensor) -> float:
    """Share of right answers if predictions were independent of labels; confusion[label, predicted] counts images."""
    share = confusion.double() / confusion.sum()
    return float(share.sum(0) @ share.sum(1))


def is_near_chance(confusion: Tensor) -> bool:
    """Whether right answers are so few that guesses with the same class frequencies would give as many."""
    from scipy.stats import binom  # here: it takes longer to import than most teachers to evaluate

    num_images, correct = int(confusion.sum()), int(confusion.diagonal().sum())
    tail: Any = binom.sf(correct - 1, num_images, min(1.0, chance_of(confusion)))
    return bool(tail > LEVEL)


def permuted(confusion: Tensor) -> dict[int, int]:
    """{label: predicted class} for classes that are clearly permuted; {} for a teacher with the data's order.

    Each moved class must itself be predicted more often as the other one: an imbalanced data set's frequent class can
    be mistaken for a rare one without any other order.
    """
    from scipy.optimize import linear_sum_assignment
    from scipy.stats import binom

    _, best = linear_sum_assignment(confusion.numpy(), maximize=True)
    moved = _better_cycles(confusion, [int(column) for column in best])
    if not moved:
        return {}
    own = sum(int(confusion[label, label]) for label in moved)
    other = sum(int(confusion[label, column]) for label, column in moved.items())
    classes = len(confusion)
    num_permutations = math.log(classes) + math.log(math.perm(classes, len(moved)))
    tail: Any = binom.logsf(other - 1, own + other, 0.5)
    return moved if float(tail) + num_permutations <= math.log(LEVEL) else {}


def _better_cycles(confusion: Tensor, best: Sequence[int]) -> dict[int, int]:
    """Those cycles of a permutation in which each class is predicted more often as the next one than as itself."""
    moved, seen = {}, set()
    for start in range(len(best)):
        cycle, label = {}, start
        while label not in seen:
            seen.add(label)
            cycle[label] = best[label]
            label = best[label]
        if len(cycle) > 1 and all(
            confusion[label, column] > confusion[label, label] for label, column in cycle.items()
        ):
            moved |= cycle
    return moved


def _order_in_words(moved: dict[int, int], names: Sequence[str]) -> str:
    shown = [f"'{names[label]}' as '{names[column]}'" for label, column in [*moved.items()][:3]]
    more = f" and {len(moved) - 3} classes more" if len(moved) > 3 else ""
    return (
        f"its classes are in another order, for it predicts {', '.join(shown)}{more}; reorder the rows of its head, or "
        "name the data's classes so that they sort in the order of its training"
    )


def _confusion(model: ImageModel, dataset: Dataset, rows: Tensor, compute: Compute) -> Tensor:
    images, labels = (part[rows].to(compute.device) for part in (dataset.train.images, dataset.train.labels))
    return torch.tensor(compute_metrics(model, Split(images, labels), compute, dataset.num_classes).confusion)


def _nearest_mean_correct(dataset: Dataset, rows: Tensor, held_out: Tensor) -> int:
    """How many of the images `held_out` are nearest to the mean image of their class, of images `rows`."""
    rows = rows[:: max(1, len(rows) // MEAN_IMAGES)]
    labels = dataset.train.labels
    sums = torch.zeros(dataset.num_classes, 3 * min(MEAN_SIZE, dataset.image_size) ** 2)
    counts = torch.bincount(labels[rows], minlength=dataset.num_classes).clamp(min=1)
    for some in rows.split(ENOUGH_IMAGES):
        sums.index_add_(0, labels[some], _pixels(dataset, some))
    means = sums / counts[:, None]
    nearest = [torch.cdist(_pixels(dataset, some), means).argmin(1) for some in held_out.split(ENOUGH_IMAGES)]
    return int((torch.cat(nearest) == labels[held_out]).sum())


def _pixels(dataset: Dataset, rows: Tensor) -> Tensor:
    """float32 [n, 3 * side * side], averaged down to MEAN_SIZE pixels on a side."""
    images = dataset.train.images[rows].float()
    if dataset.image_size > MEAN_SIZE:
        images = F.adaptive_avg_pool2d(images, MEAN_SIZE)
    return images.flatten(1)
