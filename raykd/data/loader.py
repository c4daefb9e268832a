"""Batches of one run: which images, in which order, as which views. A function of (seed, epoch, step).

    order = permutation(seed, epoch, n)          which rows, in which order: all ranks agree on it
    view  = hash(seed, epoch, index)             which crop and flip: the same in any order
    more  = hash(seed, epoch, index)             what an Augmentation does to it: see augmenter.py

Nothing is carried from step to step, so a run that resumes at (epoch, step) sees the bytes that an
uninterrupted one sees, and W workers together see what one worker sees.

Shapes: B a worker's images of a step, H and W the data's own size.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from raykd.data.augmentation import NO_AUGMENTATION, Augmentation
from raykd.data.augmenter import Augmenter, Draws
from raykd.data.counter_rng import permutation
from raykd.data.views import ViewRenderer, Views
from raykd.errors import ConfigError
from raykd.outputs import Mixed


@dataclass(frozen=True)
class Batch:
    """One worker's images of one step, all on the loader's device."""

    images: Tensor  # uint8 [B, 3, H, W], channels-last
    labels: Tensor  # int64 [B]
    index: Tensor  # int64 [B], rows of the dataset's training part
    view: Tensor  # int64 [B], the view that each image is shown as, or is augmented from
    mixed: Mixed | None = None  # what was mixed into each image; it has the larger share itself


@dataclass(frozen=True)
class EpochOrder:
    """Every image of one epoch in the order in which it is shown, on the loader's device.

    Shapes: index, view and labels are int64 [n]. draws holds the random numbers of the augmentation, or None.
    """

    index: Tensor
    view: Tensor
    labels: Tensor
    draws: Draws | None = None

    def copy_(self, other: "EpochOrder") -> None:
        """Overwrite every tensor by that of another epoch of the same loader; the tensors keep their addresses."""
        for mine, theirs in zip(self._tensors(), other._tensors(), strict=True):
            mine.copy_(theirs)

    def _tensors(self) -> list[Tensor]:
        drawn = self.draws.tensors() if self.draws is not None else []
        return [self.index, self.view, self.labels, *drawn]


class TrainLoader:
    """The training batches of one worker.

    Args:
        split_images: uint8 [N, 3, H, W], the dataset's whole training part.
        labels: int64 [N].
        rows: int64 [n], which of the N this run sees (all but the validation images, or a smaller share).
        views: the crops and flips to draw from.
        batch_size: images of a step over all workers.
        seed: of order and views.
        device: where images and labels are kept and batches are made.
        rank, world_size: this worker's number from 0, and how many there are.
        augmentation: what is done to the views.
        mean: of the pixels by channel, as fractions of 255; cutout's colour.

    Raises: ConfigError when batch_size is not a multiple of world_size or larger than n, or when rows name
        images that are not there.
    """

    def __init__(
        self,
        split_images: Tensor,
        labels: Tensor,
        rows: Tensor,
        views: Views,
        batch_size: int,
        seed: int,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: int = 1,
        augmentation: Augmentation = NO_AUGMENTATION,
        mean: tuple[float, float, float] = (0.0, 0.0, 0.0),
    ) -> None:
        _check(len(split_images), rows, batch_size, rank, world_size)
        self.views, self.batch_size, self.seed = views, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.renderer = ViewRenderer(split_images, views, device)
        self._labels = labels.to(device)
        self._rows = rows.to(device)
        share = batch_size // world_size
        self._first_places = rank * share + torch.arange(share, device=device)  # this worker's in step 0
        self._augmenter = None
        if augmentation != NO_AUGMENTATION:
            self._augmenter = Augmenter(augmentation, self.renderer, self._rows, self._labels, mean)

    @property
    def steps_per_epoch(self) -> int:
        """n // batch_size. The last, incomplete batch is left out, with other images in each epoch.

        It could hold a single image, of which batch norm makes noise, and every other shape costs a
        compiled model or a CUDA graph one more compilation.
        """
        return len(self._rows) // self.batch_size

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """The steps of epoch from first_step on, 0 <= first_step <= steps_per_epoch; the end gives none."""
        if not 0 <= first_step <= self.steps_per_epoch:
            raise ConfigError(f"first_step is {first_step}; an epoch here has {self.steps_per_epoch} steps")
        return self._steps(epoch, first_step)

    def _steps(self, epoch: int, first_step: int) -> Iterator[Batch]:
        order = self.order(epoch)
        share = self.batch_size // self.world_size
        for step in range(first_step, self.steps_per_epoch):
            start = step * self.batch_size + self.rank * share
            yield self.batch(order, slice(start, start + share))

    def order(self, epoch: int) -> EpochOrder:
        """Return the order of `epoch`. It is made at once: a step is then some slices and one gather."""
        order = permutation(self.seed, epoch, len(self._rows), self._rows.device)
        index = self._rows[order]
        view = self.views.draw(self.seed, epoch, index)
        draws = self._augmenter.draw(self.seed, epoch, index, view) if self._augmenter else None
        return EpochOrder(index, view, self._labels[index], draws)

    def batch(self, order: EpochOrder, some: slice | Tensor) -> Batch:
        """Return the batch at the places `some` of `order`: a slice, or int64 [B] on the loader's device."""
        index, view, labels = order.index[some], order.view[some], order.labels[some]
        if self._augmenter is None or order.draws is None:
            return Batch(self.renderer.render(index, view), labels, index, view)
        images, mixed = self._augmenter.show(order.draws, some)
        return Batch(images, labels, index, view, mixed)

    def places(self, step: Tensor) -> Tensor:
        """Return the places of this worker's images of a step, int64 [B]. step: int64 [1], on the loader's device.

        Nothing is read from the device, so that a CUDA graph can compute it.
        """
        return torch.add(self._first_places, step, alpha=self.batch_size)


def _check(num_images: int, rows: Tensor, batch_size: int, rank: int, world_size: int) -> None:
    if batch_size < 1 or batch_size % world_size:
        remedy = f"give a multiple of {world_size}"
        raise ConfigError(f"batch_size {batch_size} cannot be shared by {world_size} workers; {remedy}")
    if not 0 <= rank < world_size:
        raise ConfigError(f"rank is {rank}; with {world_size} workers it is 0 to {world_size - 1}")
    if len(rows) < batch_size:
        raise ConfigError(f"batch_size {batch_size} is more than the {len(rows)} training images; give less")
    if rows.min() < 0 or rows.max() >= num_images:
        raise ConfigError(f"rows reach from {rows.min()} to {rows.max()}; the training part has {num_images}")
