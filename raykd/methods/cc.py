"""Correlation congruence (Peng et al. 2019, "Correlation Congruence for Knowledge Distillation", arXiv:1904.01802).

    loss = ce_weight * CE + kd_weight * KD + weight * mean over i < B - 1 of sum_d |d_i| |d_i+1|,   d = f_s - f_t

As the authors gave it to RepDistiller: f are linear embeddings of both models' embeddings into as many dimensions, both
trained with the student, and images are taken in pairs of neighbours in the batch. The paper's kernel over all pairs is
not here. Shapes: embeddings [B, D_s] and [B, D_t], f [B, dimensions], B >= 2, over all workers. Defaults: weight
0.02 and 128 dimensions, as RepDistiller's on CIFAR-100, with CE weight 1. The method requires the teacher's embedding.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor, nn

from raykd.config import AtMost
from raykd.methods.feature_method import FeatureMethod, embeddings
from raykd.methods.precision import in_float32
from raykd.outputs import Outputs, Targets


@dataclass(frozen=True)
class CorrelationCongruence(FeatureMethod):
    """`weight` of the term, in a space of `dimensions` that both embeddings are mapped into."""

    kind: ClassVar[str] = "cc"
    paper: ClassVar[str] = "arXiv:1904.01802"
    relates_images: ClassVar[bool] = True
    min_batch_size: ClassVar[int] = 2
    weight: float = 0.02
    dimensions: Annotated[int, AtMost(4096)] = 128

    def check(self) -> None:
        super().check()
        self.require(self.dimensions >= 1, "dimensions", "must be at least 1")

    def weights(self, epoch: int) -> dict[str, float]:
        return super().weights(epoch) | {"cc": self.weight}

    def adapter(self, student: Outputs, teacher: Outputs, images: Targets) -> nn.Module:
        ours, theirs = embeddings(student, teacher)
        return nn.ModuleList([nn.Linear(vectors.shape[1], self.dimensions) for vectors in (ours, theirs)])

    def terms(
        self, student: Outputs, teacher: Outputs, targets: Targets, adapter: nn.Module | None
    ) -> dict[str, Tensor]:
        assert isinstance(adapter, nn.ModuleList)
        ours, theirs = (embed(vectors) for embed, vectors in zip(adapter, embeddings(student, teacher), strict=True))
        return super().terms(student, teacher, targets, adapter) | {"cc": correlation_congruence_loss(ours, theirs)}


@in_float32
def correlation_congruence_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Products of neighbouring images' differences, mean over neighbours. Shapes: [B, D] both, B >= 2; returns []."""
    difference = (student - teacher).abs()
    return (difference[:-1] * difference[1:]).sum(1).mean()
