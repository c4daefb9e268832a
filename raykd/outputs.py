"""What every model returns, teacher and student alike, and what is known of the images that it was shown.

Nothing is imported from torch at run time, so that packages without torch can read the names of the columns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

# The columns of history.parquet, one row per epoch. Every other column is an unweighted loss term of the method.
HISTORY_COLUMNS = ("epoch", "step", "loss", "train_top1", "val_top1", "val_loss", "lr", "images_per_s", "seconds")


class Outputs(NamedTuple):
    """One forward pass. A NamedTuple, because DDP and torch.compile both look inside tuples.

    Shapes: logits [B, C]; embedding [B, D], pooled, before the head; features, one [B, K, H, W] map a stage; heads, of
    a network with a distillation token, its class head's and its distillation head's [B, C], whose mean is `logits`.
    Fields a source cannot give (a logit cache has no features), or was not asked for, are None or empty.
    """

    logits: Tensor
    embedding: Tensor | None = None
    features: tuple[Tensor, ...] = ()
    heads: tuple[Tensor, ...] = ()


class Mixed(NamedTuple):
    """What was mixed into a batch's images. labels: int64 [B], of the partners; share: float32 [B], 1/2 to 1, of the
    image itself."""

    labels: Tensor
    share: Tensor


class Targets(NamedTuple):
    """Images by what the dataset knows of them. Shapes: labels int64 [B]; index int64 [B], rows of the training part.

    The same image has the same index in every epoch, as whichever view it is shown. mixed: the images that were mixed
    into these, or None; labels and index are then of those with the larger share.
    """

    labels: Tensor
    index: Tensor  # pyright: ignore[reportIncompatibleMethodOverride]  # the word everywhere; nobody searches this tuple
    mixed: Mixed | None = None
