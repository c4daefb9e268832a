"""The output of every model, teacher and student alike, and the targets of a batch.

Nothing is imported from torch at run time, so that packages without torch can read HISTORY_COLUMNS.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

# The columns of history.parquet, one row per epoch. Every other column is an unweighted loss term of the method.
HISTORY_COLUMNS = ("epoch", "step", "loss", "train_top1", "val_top1", "val_loss", "lr", "images_per_s", "seconds")


class Outputs(NamedTuple):
    """The result of one forward pass. A NamedTuple, because DDP and torch.compile look inside tuples.

    A field that its source does not have (a logit cache has no features), or that was not requested, is None or ().
    """

    logits: Tensor  # [B, C]
    embedding: Tensor | None = None  # [B, D], pooled, before the head
    features: tuple[Tensor, ...] = ()  # one feature map [B, K, H, W] per stage
    heads: tuple[Tensor, ...] = ()  # class head and distillation head, each [B, C]; `logits` is their mean

    def map(self, function: Callable[[Tensor], Tensor]) -> Outputs:
        """Return these outputs with `function` applied to each tensor."""
        return Outputs(
            function(self.logits),
            None if self.embedding is None else function(self.embedding),
            tuple(function(tensor) for tensor in self.features),
            tuple(function(tensor) for tensor in self.heads),
        )


class Mixed(NamedTuple):
    """The images that were mixed into the images of a batch."""

    labels: Tensor  # int64 [B], of the mixed-in images
    share: Tensor  # float32 [B], 1/2 to 1, the weight of the batch's image


class Targets(NamedTuple):
    """The labels and indices of the images in a batch, and when the batch is trained."""

    labels: Tensor  # int64 [B]; a mixed image has the label of the image with the larger weight
    # int64 [B], positions in the training split; the same for every view of an image. Shadows tuple.index, unused here.
    index: Tensor  # pyright: ignore[reportIncompatibleMethodOverride]
    mixed: Mixed | None = None  # None if no images were mixed
    # float32 [] on the batch's device, the share of the run's steps that are done: 0 in the first step, below 1 in the
    # last. None for the images that `Method.adapter` receives.
    progress: Tensor | None = None
