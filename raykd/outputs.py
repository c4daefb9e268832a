"""What every model returns, teacher and student alike."""

from typing import NamedTuple

from torch import Tensor


class Outputs(NamedTuple):
    """One forward pass. A NamedTuple, because DDP and torch.compile both look inside tuples.

    Shapes: logits [B, C]; embedding [B, D], pooled, before the head; features, one [B, K, H, W] map a stage.
    Fields a source cannot give (a table of logits has no features) are None or empty.
    """

    logits: Tensor
    embedding: Tensor | None = None
    features: tuple[Tensor, ...] = ()
