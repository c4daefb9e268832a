"""Attention transfer (Zagoruyko and Komodakis 2016, "Paying More Attention to Attention", arXiv:1612.03928).

    loss = ce_weight * CE + kd_weight * KD + weight * sum over stages of mean (Q_s - Q_t)^2
    Q    = A / ||A||_2 for each image,  A[h, w] = mean over channels of |map|^p

Shapes: feature maps [B, K, H, W] with any number of channels, Q [B, H * W]. If the sizes differ, the larger map is
average-pooled to the smaller. Defaults: weight 1000 and p 2, as the authors, RepDistiller and mdistiller use on CIFAR,
with CE weight 1. The method requires the teacher's features.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from raykd.config import Interval, NonNegative
from raykd.methods.feature_method import StageMethod, pool_to_smaller
from raykd.methods.method import Adapter
from raykd.methods.precision import in_float32
from raykd.outputs import Outputs, Targets


@dataclass(frozen=True)
class AttentionTransfer(StageMethod):
    """The student imitates where in an image the teacher's stages are active."""

    kind: ClassVar[str] = "at"
    paper: ClassVar[str] = "arXiv:1612.03928"
    weight: NonNegative = 1000.0  # weight of the attention term
    # power of the activations; larger values emphasize large activations
    p: Annotated[float, Interval("[1, inf)", "2 and 4 are usual")] = 2.0

    def weights(self, epoch: int) -> dict[str, float]:
        return super().weights(epoch) | {"at": self.weight}

    def terms(self, student: Outputs, teacher: Outputs, targets: Targets, adapter: Adapter) -> dict[str, Tensor]:
        stages = [attention_transfer_loss(*maps, self.p) for maps in self.pairs(student, teacher)]
        return super().terms(student, teacher, targets, adapter) | {"at": torch.stack(stages).sum()}


@in_float32
def attention_transfer_loss(student_map: Tensor, teacher_map: Tensor, p: float = 2) -> Tensor:
    """Return the mean squared difference of both attention maps, []. Shapes: [B, K, H, W] both."""
    maps = pool_to_smaller(student_map, teacher_map)
    student, teacher = (F.normalize(features.abs().pow(p).mean(1).flatten(1)) for features in maps)
    return F.mse_loss(student, teacher)
