"""The images of an epoch: each one once, several copies of some, or each class equally often; by (seed, epoch).

    shuffle     the images in a random order
    repeated    the first n / m of them in a random order, m copies of each one after another
    balanced    draw p of n shows class (p + offset) mod K, of K classes, and a random image of that class, drawn with
                replacement; the draws are in a random order

A balanced epoch has as many images as a shuffled one, so images of small classes are shown several times, and those of
large ones not in every epoch.

Repeated augmentation is that of DeiT (Hoffer et al. 2019, arXiv:1901.09335; Touvron et al. 2020, arXiv:2012.12877): an
epoch has n images, so every image is shown in one of m epochs on average. The copies of an image are in one batch.

Each time an image is shown in an epoch it has another view and augmentation, which depend on the number of the draw.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from raykd.data.counter_rng import SAMPLE, hash64, permutation, uniform_int

Sampling = Literal["shuffle", "balanced"]


@dataclass(frozen=True)
class Draw:
    """The images of an epoch in order.

    index: int64 [n], indices into the training split. number: int64 [n], the number p of each draw, or of each copy of
    an image; None if no image is repeated.
    """

    index: Tensor
    number: Tensor | None = None


class Shuffled:
    """Shows each of the images `indices`, int64 [n], once per epoch."""

    def __init__(self, indices: Tensor) -> None:
        self._indices = indices

    def draw(self, seed: int, epoch: int) -> Draw:
        return Draw(self._indices[permutation(seed, epoch, len(self._indices), self._indices.device)])


class Repeated:
    """Shows `repeats` copies of each image in an epoch, and as many images as `indices`, int64 [n], in total."""

    def __init__(self, indices: Tensor, repeats: int) -> None:
        self._indices, self._repeats = indices, repeats

    def draw(self, seed: int, epoch: int) -> Draw:
        position = torch.arange(len(self._indices), device=self._indices.device)
        order = permutation(seed, epoch, len(self._indices), self._indices.device)
        return Draw(self._indices[order[position // self._repeats]], position % self._repeats)


class Balanced:
    """Shows each class of the images `indices`, int64 [n], equally often, to within one image per epoch.

    labels: int64 [N], of the data set's whole training split.
    """

    def __init__(self, indices: Tensor, labels: Tensor) -> None:
        _, numbers = labels[indices].unique(return_inverse=True)
        self._by_class = indices[numbers.argsort(stable=True)]
        self._counts = numbers.bincount()  # [K]
        self._first = self._counts.cumsum(0) - self._counts  # [K], of each class in _by_class

    def draw(self, seed: int, epoch: int) -> Draw:
        device, num_classes = self._by_class.device, len(self._counts)
        number = permutation(seed, epoch, len(self._by_class), device)
        offset = uniform_int(hash64(SAMPLE, seed, epoch), num_classes).to(device)  # so that no class is always favored
        classes = (number + offset) % num_classes
        chosen = uniform_int(hash64(SAMPLE, seed, epoch, number), self._counts[classes])
        return Draw(self._by_class[self._first[classes] + chosen], number)


def sampler_of(sampling: Sampling, indices: Tensor, labels: Tensor, repeats: int = 1) -> Shuffled | Repeated | Balanced:
    """Return the sampler of the images `indices`, on their device. labels: of the whole training split.

    repeats: copies of each image, which requires the sampling 'shuffle' above 1.
    """
    if sampling == "balanced":
        return Balanced(indices, labels)
    return Shuffled(indices) if repeats == 1 else Repeated(indices, repeats)


def expected_counts(indices: Tensor, labels: Tensor) -> Tensor:
    """Return how often a balanced epoch shows each of `indices` on average, float64 [n]; their mean is 1."""
    _, numbers, counts = labels[indices].unique(return_inverse=True, return_counts=True)
    return len(indices) / (len(counts) * counts.double())[numbers]


def class_shares(indices: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return the fraction of each class among the images `indices`, float64 [C]."""
    counts = torch.bincount(labels[indices], minlength=num_classes).double()
    return counts / counts.sum()
