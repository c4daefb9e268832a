"""Hints (Romero et al. 2014, "FitNets: Hints for Thin Deep Nets", arXiv:1412.6550).

    loss = ce_weight * CE + kd_weight * KD + weight * sum over stages of mean (regressor(map_s) - map_t)^2

Shapes: maps [B, K_s, H_s, W_s] and [B, K_t, H_t, W_t]. The regressor, a convolution and batch norm trained with the
student, makes the student's map the teacher's size. As RepDistiller's, which trains hint and labels together: 3x3 of
stride 2 from twice the size, 4x4 transposed from half of it, else (1 + H_s - H_t) x (1 + W_s - W_t) as in the paper's
section 2.2; a larger teacher of other sizes is refused. It ends in a ReLU where the teacher's map has nothing below 0.

Defaults: weight 100, as RepDistiller's on CIFAR, on the second stage, about the middle of both networks. Of the teacher
it needs features.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from raykd.errors import ConfigError
from raykd.methods.feature_kd import feature_mse_loss
from raykd.methods.feature_method import StageMethod
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
        stages = [feature_mse_loss(regress(ours), theirs) for regress, (ours, theirs) in maps]
        return super().terms(student, teacher, targets, adapter) | {"fitnets": torch.stack(stages).sum()}


def regressor(student: Tensor, teacher: Tensor) -> nn.Sequential:
    """From maps like `student` [B, K_s, H_s, W_s] to maps like `teacher`. Raises ConfigError for sizes it cannot."""
    channels = student.shape[1], teacher.shape[1]
    ours, theirs = tuple(student.shape[2:]), tuple(teacher.shape[2:])
    convolution: nn.Module
    if ours == tuple(2 * side for side in theirs):
        convolution = nn.Conv2d(*channels, kernel_size=3, stride=2, padding=1)
    elif theirs == tuple(2 * side for side in ours):
        convolution = nn.ConvTranspose2d(*channels, kernel_size=4, stride=2, padding=1)
    elif all(our >= their for our, their in zip(ours, theirs, strict=True)):
        height, width = (1 + our - their for our, their in zip(ours, theirs, strict=True))
        convolution = nn.Conv2d(*channels, kernel_size=(height, width))
    else:
        raise ConfigError(
            f"method = FitNets: no regressor from the student's {ours[0]}x{ours[1]} map to the teacher's "
            f"{theirs[0]}x{theirs[1]}; name other stages (method.stages), or take at, nst or vid, which average them"
        )
    ends = [nn.ReLU()] if not (teacher < 0).any() else []
    return nn.Sequential(convolution, nn.BatchNorm2d(channels[1]), *ends)
