"""Hints (Romero et al. 2014, "FitNets: Hints for Thin Deep Nets", arXiv:1412.6550).

    loss = ce_weight * CE + kd_weight * KD + weight * sum over stages of mean (regressor(map_s) - map_t)^2

Shapes: feature maps [B, K_s, H_s, W_s] and [B, K_t, H_t, W_t]. The regressor, a convolution and batch norm trained with
the student, brings the student's map to the teacher's size. Like RepDistiller's, it is 3x3 with stride 2 from twice the
size, 4x4 transposed from half of it, and else (1 + H_s - H_t) x (1 + W_s - W_t) as in the paper's section 2.2.
RepDistiller has no regressor for a teacher's map of another larger size, such as a ViT's 14x14 for a student's 8x8.
Here such maps are average-pooled to the student's size. The regressor ends in a ReLU if the teacher's map has no
negative values; RepDistiller's always does.

Defaults: weight 100, as in RepDistiller and mdistiller on CIFAR-100, on the second stage, about the middle of both
networks, with CE weight 1. Hint and labels are trained together, as there; the paper trains the hint first. The method
requires the teacher's features.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from raykd.config import NonNegative
from raykd.methods.feature_kd import feature_mse_loss
from raykd.methods.feature_method import StageMethod, pool_to_smaller
from raykd.methods.method import Adapter
from raykd.outputs import Outputs, Targets


@dataclass(frozen=True)
class FitNets(StageMethod):
    """A regressor of the student's feature map of a stage imitates the teacher's feature map (the hint)."""

    kind: ClassVar[str] = "fitnets"
    paper: ClassVar[str] = "arXiv:1412.6550"
    stages: tuple[int, ...] = (1,)
    weight: NonNegative = 100.0  # weight of the hint

    def weights(self, epoch: int) -> dict[str, float]:
        return super().weights(epoch) | {"fitnets": self.weight}

    def adapter(self, student: Outputs, teacher: Outputs, images: Targets) -> nn.Module:
        return nn.ModuleList([regressor(*pair) for pair in self.pairs(student, teacher)])

    def terms(self, student: Outputs, teacher: Outputs, targets: Targets, adapter: Adapter) -> dict[str, Tensor]:
        assert isinstance(adapter, nn.ModuleList)
        pairs = zip(adapter, self.pairs(student, teacher), strict=True)
        stages = [feature_mse_loss(*pool_to_smaller(regress(guided), hint)) for regress, (guided, hint) in pairs]
        return super().terms(student, teacher, targets, adapter) | {"fitnets": torch.stack(stages).sum()}


def regressor(student: Tensor, teacher: Tensor) -> nn.Sequential:
    """Return a regressor from maps like `student` [B, K_s, H_s, W_s] to maps like `teacher` or its pooled maps."""
    channels = student.shape[1], teacher.shape[1]
    from_size, to_size = tuple(student.shape[2:]), tuple(teacher.shape[2:])
    convolution: nn.Module
    if from_size == tuple(2 * side for side in to_size):
        convolution = nn.Conv2d(*channels, kernel_size=3, stride=2, padding=1)
    elif to_size == tuple(2 * side for side in from_size):
        convolution = nn.ConvTranspose2d(*channels, kernel_size=4, stride=2, padding=1)
    else:
        height, width = (1 + old - min(old, new) for old, new in zip(from_size, to_size, strict=True))
        convolution = nn.Conv2d(*channels, kernel_size=(height, width))
    activation = [nn.ReLU()] if not (teacher < 0).any() else []
    return nn.Sequential(convolution, nn.BatchNorm2d(channels[1]), *activation)
