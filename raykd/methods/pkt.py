"""Probabilistic knowledge transfer, PKT (Passalis and Tefas 2018, arXiv:1803.10837).

    loss = ce_weight * CE + kd_weight * KD + weight * mean over i, j of t_ij log((t_ij + e) / (s_ij + e)),  e = 1e-7
    s_ij = (1 + cos(f_i, f_j)) / 2, each row divided by its sum: the probability that i selects j as its neighbor

Shapes: embeddings [B, D_s] and [B, D_t] of any widths; s and t [B, B] over all images of a batch, of all workers.
Default: weight 30000, as in RepDistiller and mdistiller on CIFAR-100, with CE weight 1. The method requires the
teacher's embedding.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.linalg import vector_norm

from raykd.config import NonNegative
from raykd.methods.feature_method import FeatureMethod, embeddings
from raykd.methods.method import Adapter
from raykd.methods.precision import in_float32
from raykd.outputs import Outputs, Targets

_EPSILON = 1e-7  # the authors' value


@dataclass(frozen=True)
class PKT(FeatureMethod):
    """The student imitates the probabilities that two images of a batch are neighbors."""

    kind: ClassVar[str] = "pkt"
    paper: ClassVar[str] = "arXiv:1803.10837"
    relates_images: ClassVar[bool] = True
    min_batch_size: ClassVar[int] = 2
    weight: NonNegative = 30_000.0  # weight of the PKT term

    def weights(self, epoch: int) -> dict[str, float]:
        return super().weights(epoch) | {"pkt": self.weight}

    def terms(self, student: Outputs, teacher: Outputs, targets: Targets, adapter: Adapter) -> dict[str, Tensor]:
        return super().terms(student, teacher, targets, adapter) | {"pkt": pkt_loss(*embeddings(student, teacher))}


@in_float32
def pkt_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return KL(teacher || student) of the neighbor distributions, mean over all pairs, a scalar.

    Shapes: student [B, D_s], teacher [B, D_t].
    """
    s, t = _neighbor_distribution(student), _neighbor_distribution(teacher)
    return (t * ((t + _EPSILON) / (s + _EPSILON)).log()).mean()


def _neighbor_distribution(vectors: Tensor) -> Tensor:
    length = vector_norm(vectors, dim=1, keepdim=True)
    unit = torch.where(length > 0, vectors / (length + _EPSILON), 0.0)  # the authors' gradient of a zero row is NaN
    similarity = (unit @ unit.T + 1) / 2
    return similarity / similarity.sum(1, keepdim=True)
