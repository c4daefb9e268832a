"""Variational information distillation (Ahn et al. 2019, "Variational Information Distillation", arXiv:1904.05835).

    loss     = ce_weight * CE + kd_weight * KD + weight * sum over stages of mean 1/2 ((m - map_t)^2 / v + log v)
    m        = three 1x1 convolutions with ReLUs between, K_s -> K_t -> K_t -> K_t, of the student's map
    v        = log(1 + exp(a)) + 1e-5, one number per channel: the variance of the teacher's map given the student's

Shapes: feature maps [B, K, H, W]. If the sizes differ, the larger map is average-pooled to the smaller. m's weights and
a are parameters that are trained with the student (a constant v would give a plain squared error). Defaults:
weight 1 and initial variance 5, as in RepDistiller (the authors' code) and mdistiller, with CE weight 1. The term is a
negative log likelihood and may be below 0. The method requires the teacher's features.
"""

from dataclasses import dataclass
from math import expm1, log
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raykd.config import Interval, NonNegative
from raykd.methods.feature_method import StageMethod, pool_to_smaller
from raykd.methods.method import Adapter
from raykd.methods.precision import in_float32
from raykd.outputs import Outputs, Targets

MIN_VARIANCE = 1e-5


@dataclass(frozen=True)
class VID(StageMethod):
    """The student's feature maps predict the teacher's, with a learned variance for each channel."""

    kind: ClassVar[str] = "vid"
    paper: ClassVar[str] = "arXiv:1904.05835"
    weight: NonNegative = 1.0  # weight of the term
    initial_variance: Annotated[float, Interval(f"({MIN_VARIANCE}, inf)")] = 5.0  # of every channel

    def weights(self, epoch: int) -> dict[str, float]:
        return super().weights(epoch) | {"vid": self.weight}

    def adapter(self, student: Outputs, teacher: Outputs, images: Targets) -> nn.Module:
        pairs = self.pairs(student, teacher)
        return nn.ModuleList([Prediction(s.shape[1], t.shape[1], self.initial_variance) for s, t in pairs])

    def terms(self, student: Outputs, teacher: Outputs, targets: Targets, adapter: Adapter) -> dict[str, Tensor]:
        assert isinstance(adapter, nn.ModuleList)
        pairs = zip(adapter, self.pairs(student, teacher), strict=True)
        stages = [predict(*pool_to_smaller(*pair)) for predict, pair in pairs]
        return super().terms(student, teacher, targets, adapter) | {"vid": torch.stack(stages).sum()}


class Prediction(nn.Module):
    """Predict a teacher's map from the student's: a mean for each element, and a variance for each channel."""

    def __init__(self, student_channels: int, teacher_channels: int, initial_variance: float) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(student_channels, teacher_channels, 1, bias=False)]
        for _ in range(2):
            layers += [nn.ReLU(), nn.Conv2d(teacher_channels, teacher_channels, 1, bias=False)]
        self.mean = nn.Sequential(*layers)
        above = initial_variance - MIN_VARIANCE
        # The inverse of softplus, so that softplus(spread) is `above`.
        self.spread = nn.Parameter(torch.full((teacher_channels,), above + log(-expm1(-above))))

    @property
    def variance(self) -> Tensor:
        """The variance of each channel of the teacher's map, [K_t], above 0."""
        return F.softplus(self.spread) + MIN_VARIANCE

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss [] of feature maps [B, K_s, H, W] and [B, K_t, H, W]."""
        return vid_loss(self.mean(student), self.variance, teacher)


@in_float32
def vid_loss(mean: Tensor, variance: Tensor, teacher_map: Tensor) -> Tensor:
    """Return -log N(teacher; mean, variance) without its constant, mean over all elements, [].

    Shapes: [B, K, H, W], variance [K].
    """
    variance = variance[:, None, None]
    return ((mean - teacher_map).square() / variance + variance.log()).mean() / 2
