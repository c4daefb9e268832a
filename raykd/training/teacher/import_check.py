"""Check by its predictions whether an imported teacher fits the data.

Weights can have the right names and shapes and still compute nonsense: a stem with a max-pool, another normalization or
another order of the classes leave no trace in a file. They show in the predictions:

    chance       The number of correct predictions is not clearly above that of independent predictions with the same
                 class frequencies, n * sum_c p(label c) p(predicted c). One-sided binomial test.
    other order  Images of class i are predicted as class m(i) clearly more often than as i, for a permutation m of
                 some classes. One-sided sign test, with a union bound over all permutations of as many classes.
    weak         The teacher is no better than the nearest class mean of the raw pixels, which needs no network.

The first two refuse the teacher, the third is a warning. If there are few validation images, training images are added,
which a fitting teacher predicts at least as well. Without any, training images alone are checked.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raykd.data.types import Dataset
from raykd.spec.experiment import Data
from raykd.spec.plan import train_val_indices
from raykd.store.records import ImportCheck
from raykd.training.compute import Compute
from raykd.training.metrics import compute_metrics

LEVEL = 1e-3  # the probability of accepting a teacher that guesses, and of calling a fitting one permuted
NUM_TRAIN_IMAGES = 5_000  # checked if there are no validation images
ENOUGH_IMAGES = 1_000  # with 10 classes chance is 10 %, and 13 % is clearly above it
MEAN_IMAGES, MEAN_SIZE = 10_000, 32  # images averaged for the class means, and pixels on their side

REASONS = (
    "likely reasons: its network has another stem or a max-pool behind it, its images were normalized differently "
    "(--set teacher.model.mean=RED,GREEN,BLUE --set teacher.model.std=RED,GREEN,BLUE) or have another size "
    "(--set teacher.model.input_size=PIXELS), or its classes are in another order"
)


def describe_accuracy(result: ImportCheck) -> str:
    """Return text such as 'validation top-1 98.5 % of 200 images'."""
    split, how = _split_of(result.on_training_images), " by nearest neighbors" if result.has_votes else ""
    return f"{split} top-1 {result.val_top1:.1f} % of {result.num_images} images{how}"


def _split_of(on_training_images: bool) -> str:
    return "training" if on_training_images else "validation"


def describe_import(result: ImportCheck) -> str:
    """Return text such as 'imported, validation top-1 98.5 % of 200 images', with the warnings."""
    return f"imported, {describe_accuracy(result)}{''.join(f'; warning: {warning}' for warning in result.warnings)}"


def check_import(
    model: nn.Module, data: Data, dataset: Dataset, compute: Compute, has_votes: bool = False
) -> ImportCheck:
    """Evaluate an imported teacher on the validation images, or else on training images, and decide whether it fits.

    model: the teacher, or the VotingModel of one without a classifier (has_votes).
    """
    train, val = train_val_indices(data, dataset.train.labels)
    on_training_images = len(val) == 0
    checked = train[:: max(1, len(train) // NUM_TRAIN_IMAGES)] if on_training_images else val
    confusion = _confusion(model, dataset, checked, compute)
    num_images, correct = int(confusion.sum()), int(confusion.diagonal().sum())
    top1 = 100 * correct / num_images
    result = ImportCheck(top1, num_images, has_votes=has_votes, on_training_images=on_training_images)
    if num_images < ENOUGH_IMAGES and not (has_votes or on_training_images):
        # With votes, training images would vote for themselves.
        more = train[:: max(1, len(train) // (ENOUGH_IMAGES - num_images))]
        confusion += _confusion(model, dataset, more, compute)
    split = _split_of(on_training_images)
    accuracy = f"its accuracy on {split} is {top1:.1f} % ({correct} of {num_images} images)"
    if permutation := find_permutation(confusion):
        return replace(result, refused=f"{accuracy}: {_describe_order(permutation, dataset.class_names)}")
    if is_near_chance(confusion):
        chance = f"not clearly above chance ({100 * chance_accuracy(confusion):.1f} %)"
        return replace(result, refused=f"{accuracy}, {chance}: its weights load but do not fit; {REASONS}")
    num_simple = _nearest_mean_correct(dataset, train, checked)
    if correct > num_simple:
        return result
    weak = (
        f"the imported teacher's {split} accuracy ({top1:.1f} %) is not above that of the nearest class mean of raw "
        f"pixels ({100 * num_simple / num_images:.1f} %); {REASONS}"
    )
    return replace(result, warnings=(weak,))


def chance_accuracy(confusion: Tensor) -> float:
    """Return the expected accuracy, 0 to 1, if predictions were independent of labels.

    confusion[label, predicted] counts images.
    """
    share = confusion.double() / confusion.sum()
    return float(share.sum(0) @ share.sum(1))


def is_near_chance(confusion: Tensor) -> bool:
    """Return whether guesses with the same class frequencies would be correct as often."""
    from scipy.stats import binom  # imported here: it takes longer than evaluating most teachers

    num_images, correct = int(confusion.sum()), int(confusion.diagonal().sum())
    tail: Any = binom.sf(correct - 1, num_images, min(1.0, chance_accuracy(confusion)))
    return bool(tail > LEVEL)


def find_permutation(confusion: Tensor) -> dict[int, int]:
    """Return {label: predicted class} for classes that are clearly permuted; {} if the order is that of the data.

    Each class of the permutation must be predicted more often as the other one than as itself: in an imbalanced data
    set, a frequent class can be mistaken for a rare one although the order is right.
    """
    from scipy.optimize import linear_sum_assignment
    from scipy.stats import binom

    _, best = linear_sum_assignment(confusion.numpy(), maximize=True)
    permutation = _better_cycles(confusion, [int(column) for column in best])
    if not permutation:
        return {}
    num_same = sum(int(confusion[label, label]) for label in permutation)
    num_other = sum(int(confusion[label, column]) for label, column in permutation.items())
    classes = len(confusion)
    num_permutations = math.log(classes) + math.log(math.perm(classes, len(permutation)))
    tail: Any = binom.logsf(num_other - 1, num_same + num_other, 0.5)
    return permutation if float(tail) + num_permutations <= math.log(LEVEL) else {}


def _better_cycles(confusion: Tensor, best: Sequence[int]) -> dict[int, int]:
    """Return the cycles of a permutation in which each class is predicted more often as the next one than as itself."""
    permutation, seen = {}, set()
    for start in range(len(best)):
        cycle, label = {}, start
        while label not in seen:
            seen.add(label)
            cycle[label] = best[label]
            label = best[label]
        if len(cycle) > 1 and all(
            confusion[label, column] > confusion[label, label] for label, column in cycle.items()
        ):
            permutation |= cycle
    return permutation


def _describe_order(permutation: dict[int, int], names: Sequence[str]) -> str:
    shown = [f"'{names[label]}' as '{names[column]}'" for label, column in [*permutation.items()][:3]]
    more = f" and {len(permutation) - 3} more classes" if len(permutation) > 3 else ""
    return (
        f"its classes are in another order: it predicts {', '.join(shown)}{more}; reorder the rows of its head, or "
        "name the data's classes so that they sort in the order of its training"
    )


def _confusion(model: nn.Module, dataset: Dataset, indices: Tensor, compute: Compute) -> Tensor:
    """Return int64 [C, C] counts, indexed by label and predicted class."""
    split = dataset.train.subset(indices).to(compute.device)
    return torch.tensor(compute_metrics(model, split, compute, dataset.num_classes).confusion)


def _nearest_mean_correct(dataset: Dataset, train: Tensor, val: Tensor) -> int:
    """Return how many of the images `val` are nearest to their class's mean over the images `train`."""
    train = train[:: max(1, len(train) // MEAN_IMAGES)]
    labels = dataset.train.labels
    sums = torch.zeros(dataset.num_classes, 3 * min(MEAN_SIZE, dataset.image_size) ** 2)
    counts = torch.bincount(labels[train], minlength=dataset.num_classes).clamp(min=1)
    for chunk in train.split(ENOUGH_IMAGES):
        sums.index_add_(0, labels[chunk], _pixels(dataset, chunk))
    means = sums / counts[:, None]
    nearest = [torch.cdist(_pixels(dataset, chunk), means).argmin(1) for chunk in val.split(ENOUGH_IMAGES)]
    return int((torch.cat(nearest) == labels[val]).sum())


def _pixels(dataset: Dataset, indices: Tensor) -> Tensor:
    """Return float32 [n, 3 * side * side], averaged down to at most MEAN_SIZE pixels on a side."""
    images = dataset.train.images[indices].float()
    if dataset.image_size > MEAN_SIZE:
        images = F.adaptive_avg_pool2d(images, MEAN_SIZE)
    return images.flatten(1)
