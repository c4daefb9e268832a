"""Training batches: images, their order and their views, as a function of (seed, epoch, step).

    order = permutation(seed, epoch, n)          the images in order, equal on all ranks; for others see sampling.py
    view  = hash(seed, epoch, index)             crop and flip
    draws = hash(seed, epoch, index)             random numbers of an Augmentation, see augmenter.py

With balanced sampling and with repeats an epoch may show an image several times, so both hashes also include the number
of the draw (`Draw.number` in sampling.py).

There is no state, so a run that resumes at (epoch, step) reads the same bytes as an uninterrupted run, and W workers
together read what one worker reads.

Shapes: N training images of the data set, n of this run, B per worker and step, H x W pixels.
"""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import torch
from torch import Tensor

from raykd.data.augmentation import NO_AUGMENTATION, Augmentation
from raykd.data.augmenter import Augmenter, Draws
from raykd.data.crop_views import CropViews
from raykd.data.renderers import Request, make_renderer
from raykd.data.sampling import Sampling, sampler_of
from raykd.data.types import Images
from raykd.data.views import Views
from raykd.errors import ConfigError
from raykd.outputs import Mixed


@dataclass(frozen=True)
class Batch:
    """One worker's images of one step, all on the loader's device."""

    images: Tensor  # uint8 [B, 3, H, W], channels-last
    labels: Tensor  # int64 [B]
    index: Tensor  # int64 [B], indices into the data set's training split
    view: Tensor  # int64 [B], the view of each image, before any augmentation
    mixed: Mixed | None = None  # partners mixed into the images, with at most half of the weight

    def parts(self, count: int) -> list["Batch"]:
        """Return the batch in `count` parts of equal size, in order."""
        if count == 1:
            return [self]
        tensors = (tensor.chunk(count) for tensor in (self.images, self.labels, self.index, self.view))
        mixed: list[Mixed | None] = [None] * count
        if self.mixed is not None:
            mixed = [Mixed(*part) for part in zip(*(tensor.chunk(count) for tensor in self.mixed), strict=True)]
        return [Batch(*part) for part in zip(*tensors, mixed, strict=True)]


@dataclass(frozen=True)
class EpochOrder:
    """All images of one epoch in order, on the loader's device.

    index, view, labels: int64 [n]. draws: the random numbers of the augmentation, or None.
    """

    index: Tensor
    view: Tensor
    labels: Tensor
    draws: Draws | None = None

    @property
    def render_request(self) -> Request:
        """Index and view of everything that is rendered, int64 [P, n]: of the images, and of partners mixed into them.

        P is 2 with partners, else 1.
        """
        return (self.index[None], self.view[None]) if self.draws is None else (self.draws.index, self.draws.view)

    def copy_(self, other: "EpochOrder") -> None:
        """Copy the tensors of another epoch of the same loader into these, whose addresses stay the same."""
        for target, source in zip(self._tensors(), other._tensors(), strict=True):
            target.copy_(source)

    def _tensors(self) -> list[Tensor]:
        draws = self.draws.tensors() if self.draws is not None else []
        return [self.index, self.view, self.labels, *draws]


class TrainLoader:
    """The training batches of one worker.

    Args:
        split_images: uint8 [N, 3, H, W], the data set's whole training split, in memory or on disk.
        labels: int64 [N].
        indices: int64 [n], the images to train on (all but the validation images, or a subset).
        views: the crops and flips to draw from.
        batch_size: images per step over all workers.
        seed: seeds the order, the views and the augmentation.
        device: where labels and batches are placed, and the images too unless they are on disk.
        rank, world_size: this worker's index from 0, and the number of workers.
        augmentation: applied to the views.
        mean, std: of the pixels of each channel, as fractions of 255. Cutout fills its square with the mean, and random
            erasing its box with normal noise.
        passes: equal parts of a batch. Each has the same images whatever the number of workers.
        sampling, repeats: which images an epoch shows, see sampling.py.

    Raises ConfigError if batch_size is not a multiple of world_size, or larger than n, or if indices are out of range.
    """

    def __init__(
        self,
        split_images: Images,
        labels: Tensor,
        indices: Tensor,
        views: Views | CropViews,
        batch_size: int,
        seed: int,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: int = 1,
        augmentation: Augmentation = NO_AUGMENTATION,
        mean: tuple[float, float, float] = (0.0, 0.0, 0.0),
        std: tuple[float, float, float] = (1.0, 1.0, 1.0),
        passes: int = 1,
        sampling: Sampling = "shuffle",
        repeats: int = 1,
    ) -> None:
        _check(len(split_images), indices, batch_size, rank, world_size)
        assert batch_size % (passes * world_size) == 0, "checked with the experiment"
        self.views, self.batch_size, self.seed = views, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.renderer = make_renderer(split_images, views, device)
        self._labels = labels.to(device)
        self._indices = indices.to(device)
        self._sampler = sampler_of(sampling, self._indices, self._labels, repeats)
        share = batch_size // (passes * world_size)
        starts = rank * share + torch.arange(passes, device=device)[:, None] * (batch_size // passes)
        self._first_positions = (starts + torch.arange(share, device=device)).flatten()  # this worker's in step 0
        self._is_slice = passes == 1 or world_size == 1  # whether these positions are contiguous
        self._augmenter = None
        if augmentation != NO_AUGMENTATION:
            size = self.renderer.height, self.renderer.width
            self._augmenter = Augmenter(augmentation, views, size, self._indices, self._labels, mean, std)

    @property
    def num_images(self) -> int:
        """The number of different images, n."""
        return len(self._indices)

    @property
    def steps_per_epoch(self) -> int:
        """The number of steps, n // batch_size. The last, incomplete batch is dropped; its images differ in each epoch.

        It could hold a single image, for which batch norm is meaningless, and another shape would require one more
        compilation or CUDA graph.
        """
        return len(self._indices) // self.batch_size

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """Iterate over the batches of an epoch from first_step, 0 <= first_step <= steps_per_epoch.

        Images on disk are decoded a few batches ahead.
        """
        if not 0 <= first_step <= self.steps_per_epoch:
            raise ConfigError(
                f"first_step = {first_step}: must lie in [0, {self.steps_per_epoch}], the steps of an epoch"
            )
        return self._batches(self.order(epoch), range(first_step, self.steps_per_epoch))

    def order(self, epoch: int) -> EpochOrder:
        """Return the order of `epoch`. It is computed for all steps together, so a step requires few kernels."""
        drawn = self._sampler.draw(self.seed, epoch)
        view = self.views.draw(self.seed, epoch, drawn.index, drawn.number)
        draws = self._augmenter.draw(self.seed, epoch, drawn.index, view, drawn.number) if self._augmenter else None
        return EpochOrder(drawn.index, view, self._labels[drawn.index], draws)

    def batch(self, order: EpochOrder, positions: slice | Tensor) -> Batch:
        """Return the batch at `positions` in `order`: a slice, or int64 [B] on the loader's device."""
        if order.draws is None:  # index and view are gathered once: each gather is a launch on a GPU
            index, view = order.index[positions], order.view[positions]
            return Batch(self.renderer.render(index, view), order.labels[positions], index, view)
        return self._finish(order, positions, self.renderer.render(*_request(order.render_request, positions)))

    def positions_on_device(self, step: Tensor) -> Tensor:
        """Return the positions of this worker's images in a step, int64 [B]. step: int64 [1], on the loader's device.

        Nothing is copied to the host, so that a CUDA graph can compute it.
        """
        return torch.add(self._first_positions, step, alpha=self.batch_size)

    def _batches(self, order: EpochOrder, steps: range) -> Iterator[Batch]:
        """Yield the batches of some steps, rendered ahead."""
        request, first_positions = order.render_request, self._first_positions
        if self.renderer.is_on_host:
            index, view = request
            request, first_positions = (index.cpu(), view.cpu()), first_positions.cpu()
        requests = (_request(request, self._slice_or_positions(step, first_positions)) for step in steps)
        with closing(self.renderer.render_ahead(requests)) as rendered:
            for step, pixels in zip(steps, rendered, strict=True):
                yield self._finish(order, self._slice_or_positions(step, self._first_positions), pixels)

    def _slice_or_positions(self, step: int, first_positions: Tensor) -> slice | Tensor:
        """Return the positions of this worker's images in a step. first_positions: those in step 0, on any device."""
        if not self._is_slice:
            return first_positions + step * self.batch_size
        share = self.batch_size // self.world_size
        start = step * self.batch_size + self.rank * share
        return slice(start, start + share)

    def _finish(self, order: EpochOrder, positions: slice | Tensor, pixels: Tensor) -> Batch:
        """Return the batch at `positions`. pixels: uint8 [P * B, 3, H, W], rendered for them by `render_request`."""
        index, view, labels = order.index[positions], order.view[positions], order.labels[positions]
        if self._augmenter is None or order.draws is None:
            return Batch(pixels, labels, index, view)
        images, mixed = self._augmenter.apply(pixels, order.draws, positions)
        return Batch(images, labels, index, view, mixed)


def _request(request: Request, positions: slice | Tensor) -> Request:
    """Return index and view, int64 [P * B], at some positions of those of an epoch, int64 [P, n]."""
    index, view = request
    return index[:, positions].flatten(), view[:, positions].flatten()


def _check(num_images: int, indices: Tensor, batch_size: int, rank: int, world_size: int) -> None:
    if batch_size < 1 or batch_size % world_size:
        allowed = f"must be a positive multiple of the number of workers, {world_size}"
        raise ConfigError(f"batch_size = {batch_size}: {allowed}")
    if not 0 <= rank < world_size:
        raise ConfigError(f"rank = {rank}: must lie in [0, {world_size - 1}], for {world_size} workers")
    if len(indices) < batch_size:
        allowed = f"must be at most {len(indices)}, the number of training images"
        raise ConfigError(f"batch_size = {batch_size}: {allowed}")
    if indices.min() < 0 or indices.max() >= num_images:
        limits = f"{indices.min()} to {indices.max()}"
        raise ConfigError(f"indices range from {limits}: must lie in [0, {num_images - 1}], the training images")
