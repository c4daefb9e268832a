"""Relational knowledge distillation (Park et al. 2019, "Relational Knowledge Distillation", arXiv:1904.05068).

    loss     = ce_weight * CE + kd_weight * KD + distance_weight * distance + angle_weight * angle
    distance = mean over i, j of huber(d_s[i, j] - d_t[i, j]),      d = |f_i - f_j| / mean over i != j
    angle    = mean over i, j, k of huber(a_s[i, j, k] - a_t[i, j, k]),   a = cos of the angle at i between j and k

Shapes: embeddings [B, D_s] and [B, D_t] of any widths; d [B, B], a [B, B, B], over all images of a batch, of all
workers. Defaults: 25 and 50, as in RepDistiller and mdistiller on CIFAR-100, with CE weight 1. The method requires the
teacher's embedding. A batch must have at least 3 images: the normalized distance of two is always 1.

Public code holds all B^3 cosines a in memory. Here a few i at a time are computed, together with their part of the
gradient.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.linalg import vector_norm

from raykd.config import NonNegative
from raykd.methods.feature_method import FeatureMethod, embeddings
from raykd.methods.method import Adapter
from raykd.methods.precision import in_float32
from raykd.outputs import Outputs, Targets

LEAST_DISTANCE = 1e-6  # the authors' lower bound for two different images
# Images i per chunk. A chunk of c images has [c, B, B] cosines and [c, B, D] differences. Those of 8 images fit in a
# CPU's caches. On a GPU, chunks of 8 would take 800 kernels for a batch of 128, and larger chunks cost no more time.
CHUNK_SIZES = {"cpu": 8, "cuda": 128}


@dataclass(frozen=True)
class RKD(FeatureMethod):
    """The student imitates distances between the images of a batch, and angles between three of them."""

    kind: ClassVar[str] = "rkd"
    paper: ClassVar[str] = "arXiv:1904.05068"
    relates_images: ClassVar[bool] = True
    min_batch_size: ClassVar[int] = 3
    distance_weight: NonNegative = 25.0  # weight of the term over pairs of images
    angle_weight: NonNegative = 50.0  # weight of the term over triples of images

    def weights(self, epoch: int) -> dict[str, float]:
        return super().weights(epoch) | {"rkd_distance": self.distance_weight, "rkd_angle": self.angle_weight}

    def terms(self, student: Outputs, teacher: Outputs, targets: Targets, adapter: Adapter) -> dict[str, Tensor]:
        pair = embeddings(student, teacher)
        relations = {"rkd_distance": rkd_distance_loss(*pair), "rkd_angle": rkd_angle_loss(*pair)}
        return super().terms(student, teacher, targets, adapter) | relations


@in_float32
def rkd_distance_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the Huber loss of normalized distances, mean over all pairs, []. Shapes: [B, D_s] and [B, D_t]."""
    return F.smooth_l1_loss(_distances(student), _distances(teacher))


def _distances(vectors: Tensor) -> Tensor:
    """Return the distances [B, B], 0 on the diagonal, divided by the mean of all others."""
    # Not |a|^2 + |b|^2 - 2 a.b: in float32 that is noise for two images that are close.
    distances = torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist").clamp_min(LEAST_DISTANCE)
    distances = distances.masked_fill(torch.eye(len(vectors), dtype=torch.bool, device=distances.device), 0.0)
    return distances / (distances.sum() / max(len(vectors) * (len(vectors) - 1), 1)).clamp_min(LEAST_DISTANCE)


@in_float32
def rkd_angle_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the Huber loss of cosines, mean over all triples, []. Shapes: [B, D_s] and [B, D_t].

    Only the student has a gradient.
    """
    return cast(Tensor, _Angles.apply(student, teacher.detach()))


class _Angles(torch.autograd.Function):
    """Compute the loss and its gradient [B, D_s] in one pass, so that nothing of size B^2 is stored for backward."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor) -> Tensor:
        total, gradient = student.new_zeros(()), torch.zeros_like(student)
        chunk_size = CHUNK_SIZES["cuda" if student.is_cuda else "cpu"]
        for first in range(0, len(student), chunk_size):
            corners = slice(first, first + chunk_size)
            units, length = _sides(student, student[corners])
            teacher_units, _ = _sides(teacher, teacher[corners])
            difference = torch.bmm(units, units.mT) - torch.bmm(teacher_units, teacher_units.mT)
            slope = difference.clamp(-1, 1)  # Huber's derivative
            total += (slope * (difference - slope / 2)).sum()
            # cos = u_j . u_k, and slope is symmetric in j and k. The cosine depends on a side's direction alone.
            by_unit = 2 * torch.bmm(slope, units)
            by_side = torch.where(length > 0, (by_unit - units * (units * by_unit).sum(2, keepdim=True)) / length, 0.0)
            gradient += by_side.sum(0)
            gradient[corners] -= by_side.sum(1)
        ctx.save_for_backward(gradient / len(student) ** 3)
        return total / len(student) ** 3

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (gradient,) = ctx.saved_tensors
        return gradients[0] * gradient, None


def _sides(vectors: Tensor, corners: Tensor) -> tuple[Tensor, Tensor]:
    """Return the unit vectors [c, B, D] from each of `corners` [c, D] to `vectors` [B, D], and their lengths [c, B, 1].

    A side of length 0 is 0.
    """
    sides = vectors - corners[:, None]
    length = vector_norm(sides, dim=2, keepdim=True)
    return torch.where(length > 0, sides / length, 0.0), length
