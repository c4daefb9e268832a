"""Correlation congruence (Peng et al. 2019, "Correlation Congruence for Knowledge Distillation", arXiv:1904.01802).

    loss = ce_weight * CE + kd_weight * KD + weight * mean over i < B - 1 of sum_d |d_i| |d_i+1|,   d = f_s - f_t

This is the authors' version in RepDistiller: f are linear projections of both models' embeddings to the same number of
dimensions, trained with the student, and only neighbors in the batch form pairs. The paper's kernel over all pairs is
not implemented. Shapes: embeddings [B, D_s] and [B, D_t], f [B, dimensions], B >= 2, over all workers. Defaults: weight
0.02 and 128 dimensions, as in RepDistiller on CIFAR-100, with CE weight 1. The method requires the teacher's embedding.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor, nn

from raykd.config import Interval, NonNegative
from raykd.methods.feature_method import FeatureMethod, embeddings
from raykd.methods.method import Adapter
from raykd.methods.precision import in_float32
from raykd.outputs import Outputs, Targets


@dataclass(frozen=True)
class CorrelationCongruence(FeatureMethod):
    """The student imitates the correlations between the images of a batch."""

    kind: ClassVar[str] = "cc"
    paper: ClassVar[str] = "arXiv:1904.01802"
    relates_images: ClassVar[bool] = True
    min_batch_size: ClassVar[int] = 2
    weight: NonNegative = 0.02  # weight of the correlation term
    dimensions: Annotated[int, Interval("[1, 4096]")] = 128  # of the space that both embeddings are projected to

    def weights(self, epoch: int) -> dict[str, float]:
        return super().weights(epoch) | {"cc": self.weight}

    def adapter(self, student: Outputs, teacher: Outputs, images: Targets) -> nn.Module:
        return nn.ModuleList([nn.Linear(x.shape[1], self.dimensions) for x in embeddings(student, teacher)])

    def terms(self, student: Outputs, teacher: Outputs, targets: Targets, adapter: Adapter) -> dict[str, Tensor]:
        assert isinstance(adapter, nn.ModuleList)
        projected = (project(x) for project, x in zip(adapter, embeddings(student, teacher), strict=True))
        return super().terms(student, teacher, targets, adapter) | {"cc": correlation_congruence_loss(*projected)}


@in_float32
def correlation_congruence_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the product of neighboring images' differences, mean over neighbors, []. Shapes: [B, D] both, B >= 2."""
    difference = (student - teacher).abs()
    return (difference[:-1] * difference[1:]).sum(1).mean()
