"""Neuron selectivity transfer (Huang and Wang 2017, "Like What You Like", arXiv:1707.01219).

    loss = ce_weight * CE + kd_weight * KD + weight * sum over stages of MMD^2
    MMD^2 = mean k(f_t, f_t') + mean k(f_s, f_s') - 2 mean k(f_s, f_t),   k(a, b) = (a . b)^2

Shapes: feature maps [B, K, H, W]. Each channel, divided by its L2 norm, is one sample f [H * W]; the means are over
pairs of channels of one image. Both models may have any number of channels. If the sizes differ, the larger map is
average-pooled to the smaller. Defaults: weight 50, as in RepDistiller and mdistiller on CIFAR-100, with CE weight 1.
The method requires the teacher's features.

Public code builds a tensor of [B, K, K, H * W] for the mean of k. Here the sum of (a . b)^2 is |A B^T|^2 with
[B, K_a, K_b], or <A^T A, B^T B> with [B, H * W, H * W]: the smaller of both.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from raykd.config import NonNegative
from raykd.methods.feature_method import StageMethod, pool_to_smaller
from raykd.methods.method import Adapter
from raykd.methods.precision import in_float32
from raykd.outputs import Outputs, Targets


@dataclass(frozen=True)
class NST(StageMethod):
    """The student imitates where in an image each channel of the teacher is active."""

    kind: ClassVar[str] = "nst"
    paper: ClassVar[str] = "arXiv:1707.01219"
    weight: NonNegative = 50.0  # weight of the term

    def weights(self, epoch: int) -> dict[str, float]:
        return super().weights(epoch) | {"nst": self.weight}

    def terms(self, student: Outputs, teacher: Outputs, targets: Targets, adapter: Adapter) -> dict[str, Tensor]:
        stages = [nst_loss(*maps) for maps in self.pairs(student, teacher)]
        return super().terms(student, teacher, targets, adapter) | {"nst": torch.stack(stages).sum()}


@in_float32
def nst_loss(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Return the squared maximum mean discrepancy under (a . b)^2, mean over the batch, []. Shapes: [B, K, H, W]."""
    student, teacher = (F.normalize(x.flatten(2), dim=2) for x in pool_to_smaller(student_map, teacher_map))
    within = _mean_kernel(teacher, teacher) + _mean_kernel(student, student)
    return within - 2 * _mean_kernel(student, teacher)


def _mean_kernel(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean of (a_i . b_j)^2 over i, j and images, [], for [B, K_a, P] and [B, K_b, P]."""
    pairs = len(a) * a.shape[1] * b.shape[1]
    if a.shape[1] * b.shape[1] <= a.shape[2] ** 2:
        return torch.bmm(a, b.mT).square().sum() / pairs
    return (torch.bmm(a.mT, a) * torch.bmm(b.mT, b)).sum() / pairs
