"""Similarity-preserving distillation (Tung and Mori 2019, arXiv:1907.09682).

    loss = ce_weight * CE + kd_weight * KD + weight * sum over stages of mean (G_s - G_t)^2
    G    = rows of F F^T, each divided by its L2 norm,  F [B, K * H * W] the feature maps of a batch

Shapes: feature maps [B, K, H, W] with any K, H, W each; G [B, B] over all images of a batch, of all workers. Defaults:
weight 3000 on the last stage, as in the paper and in RepDistiller and mdistiller on CIFAR, with CE weight 1. The method
requires the teacher's features.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.linalg import vector_norm

from raykd.config import NonNegative
from raykd.methods.feature_method import StageMethod
from raykd.methods.method import Adapter
from raykd.methods.precision import in_float32
from raykd.outputs import Outputs, Targets

_EPSILON = 1e-12  # the authors' value, the default of F.normalize


@dataclass(frozen=True)
class SimilarityPreserving(StageMethod):
    """The student imitates the similarities between the images of a batch."""

    kind: ClassVar[str] = "sp"
    paper: ClassVar[str] = "arXiv:1907.09682"
    relates_images: ClassVar[bool] = True
    min_batch_size: ClassVar[int] = 2
    stages: tuple[int, ...] = (-1,)
    weight: NonNegative = 3000.0  # weight of the term

    def weights(self, epoch: int) -> dict[str, float]:
        return super().weights(epoch) | {"sp": self.weight}

    def terms(self, student: Outputs, teacher: Outputs, targets: Targets, adapter: Adapter) -> dict[str, Tensor]:
        stages = [similarity_preserving_loss(*maps) for maps in self.pairs(student, teacher)]
        return super().terms(student, teacher, targets, adapter) | {"sp": torch.stack(stages).sum()}


@in_float32
def similarity_preserving_loss(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Return the mean squared difference of both similarity matrices [B, B], []. Shapes: [B, ...]."""
    return F.mse_loss(_similarities(student_map.flatten(1)), _similarities(teacher_map.flatten(1)))


def _similarities(rows: Tensor) -> Tensor:
    """Return rows @ rows.T with rows scaled to length 1, [B, D] -> [B, B]. A zero row stays 0, without a gradient."""
    similarities = rows @ rows.T
    length = vector_norm(similarities, dim=1, keepdim=True)
    return torch.where(length > 0, similarities / length.clamp_min(_EPSILON), 0.0)
