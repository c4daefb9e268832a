"""Hints (Romero et al. 2014, "FitNets: Hints for Thin Deep Nets", arXiv:1412.6550).

    loss = ce_weight * CE + kd_weight * KD + weight * sum over stages of mean (regressor(map_s) - map_t)^2

Shapes: maps [B, K_s, H_s, W_s] and [B, K_t, H_t, W_t]. The regressor, a convolution and batch norm trained with the
student, makes the student's map the teacher's size. As RepDistiller's, which trains hint and labels together: 3x3 of
stride 2 from twice the size, 4x4 transposed from half of it, else (1 + H_s - H_t) x (1 + W_s - W_t) as in the paper's
section 2.2. RepDistiller has none for a teacher's map that is larger otherwise (a ViT's 14x14 above 8x8): that is
averaged down to the student's, as AT, NST and VID do. A regressor ends in a ReLU where the teacher's map has nothing
below 0.

Defaults: weight 100, as RepDistiller's and mdistiller's on CIFAR-100, on the second stage, about the middle of both
networks, with CE weight 1. The paper instead trains the hint first and then the rest. The method requires the teacher's
features.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from raykd.methods.feature_kd import feature_mse_loss
from raykd.methods.feature_method import StageMethod, pool_to_smaller
from raykd.outputs import Outputs, Targets


@dataclass(frozen=True)
class FitNets(StageMethod):
    """`weight` of the hint."""

    kind: ClassVar[str] = "fitnets"
    paper: ClassVar[str] = "arXiv:1412.6550"
    stages: tuple[int, ...] = (1,)
    weight: float = 100.0

    def weights(self, epoch: int) -> dict[str, float]:
        return super().weights(epoch) | {"fitnets": self.weight}

    def adapter(self, student: Outputs, teacher: Outputs, images: Targets) -> nn.Module:
        return nn.ModuleList([regressor(ours, theirs) for ours, theirs in self.pairs(student, teacher)])

    def terms(
        self, student: Outputs, teacher: Outputs, targets: Targets, adapter: nn.Module | None
    ) -> dict[str, Tensor]:
        assert isinstance(adapter, nn.ModuleList)
        maps = zip(adapter, self.pairs(student, teacher), strict=True)
        stages = [hint_loss(regress(ours), theirs) for regress, (ours, theirs) in maps]
        return super().terms(student, teacher, targets, adapter) | {"fitnets": torch.stack(stages).sum()}


def hint_loss(regressed: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of maps [B, K_t, H, W] and [B, K_t, H_t, W_t], averaged down to H and W. Returns []."""
    return feature_mse_loss(*pool_to_smaller(regressed, teacher))


def regressor(student: Tensor, teacher: Tensor) -> nn.Sequential:
    """From maps like `student` [B, K_s, H_s, W_s] to maps like `teacher`, or to what is compared with it."""
    channels = student.shape[1], teacher.shape[1]
    ours, theirs = tuple(student.shape[2:]), tuple(teacher.shape[2:])
    convolution: nn.Module
    if ours == tuple(2 * side for side in theirs):
        convolution = nn.Conv2d(*channels, kernel_size=3, stride=2, padding=1)
    elif theirs == tuple(2 * side for side in ours):
        convolution = nn.ConvTranspose2d(*channels, kernel_size=4, stride=2, padding=1)
    else:
        height, width = (1 + our - min(our, their) for our, their in zip(ours, theirs, strict=True))
        convolution = nn.Conv2d(*channels, kernel_size=(height, width))
    ends = [nn.ReLU()] if not (teacher < 0).any() else []
    return nn.Sequential(convolution, nn.BatchNorm2d(channels[1]), *ends)
