"""Relational knowledge distillation (Park et al. 2019, "Relational Knowledge Distillation", arXiv:1904.05068).

    loss     = ce_weight * CE + kd_weight * KD + distance_weight * distance + angle_weight * angle
    distance = mean over i, j of huber(d_s[i, j] - d_t[i, j]),      d = |f_i - f_j| / mean over i != j
    angle    = mean over i, j, k of huber(a_s[i, j, k] - a_t[i, j, k]),   a = cos of the angle at i between j and k

Shapes: embeddings [B, D_s] and [B, D_t] of any widths; d [B, B], a [B, B, B]. Defaults: 25 and 50, as RepDistiller's
and mdistiller's on CIFAR-100, with CE weight 1. The method requires the teacher's embedding. i, j and k are all images
of a batch, over all workers. Two images have no relation to compare (their normalized distance is always 1), so a batch
has at least 3.

a is never there as a whole, B^3 numbers in public code: a few i at a time are computed, and their part of the gradient
with them.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.linalg import vector_norm

from raykd.methods.feature_method import FeatureMethod, embeddings
from raykd.methods.precision import in_float32
from raykd.outputs import Outputs, Targets

LEAST_DISTANCE = 1e-6  # the authors': of two different images, however alike
# Images i at a time, c: [c, B, B] cosines and [c, B, D] differences. A CPU keeps 8 in its caches; on a GPU, where a
# batch of 128 by eights is 800 kernels, more of them cost no time.
CORNERS = {"cpu": 8, "cuda": 128}


@dataclass(frozen=True)
class RKD(FeatureMethod):
    """distance_weight and angle_weight, of pairs and of triples of a batch's images."""

    kind: ClassVar[str] = "rkd"
    paper: ClassVar[str] = "arXiv:1904.05068"
    relates_images: ClassVar[bool] = True
    min_batch_size: ClassVar[int] = 3
    distance_weight: float = 25.0
    angle_weight: float = 50.0

    def weights(self, epoch: int) -> dict[str, float]:
        return super().weights(epoch) | {"rkd_distance": self.distance_weight, "rkd_angle": self.angle_weight}

    def terms(
        self, student: Outputs, teacher: Outputs, targets: Targets, adapter: nn.Module | None
    ) -> dict[str, Tensor]:
        ours, theirs = embeddings(student, teacher)
        relations = {"rkd_distance": rkd_distance_loss(ours, theirs), "rkd_angle": rkd_angle_loss(ours, theirs)}
        return super().terms(student, teacher, targets, adapter) | relations


@in_float32
def rkd_distance_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Huber of normalised distances, mean over all pairs. Shapes: [B, D_s] and [B, D_t]; returns [], 0 where equal."""
    return F.smooth_l1_loss(_distances(student), _distances(teacher))


def _distances(vectors: Tensor) -> Tensor:
    """Return the distances [B, B] divided by the mean of all but the diagonal, which is 0."""
    # Not by |a|^2 + |b|^2 - 2 a.b: in float32 that leaves noise where two images are near.
    found = torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist").clamp_min(LEAST_DISTANCE)
    found = found.masked_fill(torch.eye(len(vectors), dtype=torch.bool, device=found.device), 0.0)
    return found / (found.sum() / max(len(vectors) * (len(vectors) - 1), 1)).clamp_min(LEAST_DISTANCE)


@in_float32
def rkd_angle_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Huber of cosines, mean over all triples. Shapes: [B, D_s] and [B, D_t]; returns [], 0 where equal.

    The teacher's carry no gradient.
    """
    return cast(Tensor, _Angles.apply(student, teacher.detach()))


class _Angles(torch.autograd.Function):
    """The loss and, in the same pass, its gradient [B, D_s]: nothing of B^2 or more is kept for the way back."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor) -> Tensor:
        total, gradient = student.new_zeros(()), torch.zeros_like(student)
        max_concurrent = CORNERS["cuda" if student.is_cuda else "cpu"]
        for first in range(0, len(student), max_concurrent):
            corners = slice(first, first + max_concurrent)
            ours, length = _sides(student, student[corners])
            theirs, _ = _sides(teacher, teacher[corners])
            off = torch.bmm(ours, ours.mT) - torch.bmm(theirs, theirs.mT)
            slope = off.clamp(-1, 1)  # of huber
            total += (slope * (off - slope / 2)).sum()
            # cos = u_j . u_k, and slope is symmetric in j and k; of a side's length only the direction counts.
            by_unit = 2 * torch.bmm(slope, ours)
            by_side = torch.where(length > 0, (by_unit - ours * (ours * by_unit).sum(2, keepdim=True)) / length, 0.0)
            gradient += by_side.sum(0)
            gradient[corners] -= by_side.sum(1)
        ctx.save_for_backward(gradient / len(student) ** 3)
        return total / len(student) ** 3

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (gradient,) = ctx.saved_tensors
        return gradients[0] * gradient, None


def _sides(vectors: Tensor, corners: Tensor) -> tuple[Tensor, Tensor]:
    """[B, D] and [c, D] -> (sides from each corner, of length 1 [c, B, D]; lengths [c, B, 1]); 0 for no length."""
    sides = vectors - corners[:, None]
    length = vector_norm(sides, dim=2, keepdim=True)
    return torch.where(length > 0, sides / length, 0.0), length
