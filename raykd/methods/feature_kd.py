"""Soft targets and the teacher's embedding: KD plus a distance between pooled features.

    loss = KD's terms + weight * distance(adapter(student embedding), teacher embedding)

The distance is the mean squared error, as in FitNets (Romero et al. 2014, arXiv:1412.6550), or one minus the
cosine. Shapes: embeddings [B, D_s] and [B, D_t]. If the widths differ, a linear adapter D_s -> D_t is trained with the
student. No paper has this sum: alpha and temperature are KD's defaults, and the distance's weight 1 is not tuned.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raykd.config import NonNegative
from raykd.methods.feature_method import embeddings
from raykd.methods.kd import KD
from raykd.methods.method import Adapter, Need
from raykd.methods.precision import at_least_float32
from raykd.outputs import Outputs, Targets


@dataclass(frozen=True)
class FeatureKD(KD):
    """KD plus a distance between the embeddings."""

    kind: ClassVar[str] = "feature_kd"
    paper: ClassVar[str] = "arXiv:1412.6550"
    needs: ClassVar[frozenset[Need]] = frozenset({"logits", "embedding"})
    distance: Literal["mse", "cosine"] = "mse"  # between the projected embedding and the teacher's
    feature_weight: NonNegative = 1.0  # weight of the distance

    def weights(self, epoch: int) -> dict[str, float]:
        return super().weights(epoch) | {"feature": self.feature_weight}

    def adapter(self, student: Outputs, teacher: Outputs, images: Targets) -> Adapter:
        student_width, teacher_width = (vectors.shape[1] for vectors in embeddings(student, teacher))
        return nn.Linear(student_width, teacher_width) if student_width != teacher_width else None

    def terms(self, student: Outputs, teacher: Outputs, targets: Targets, adapter: Adapter) -> dict[str, Tensor]:
        student_embedding, teacher_embedding = embeddings(student, teacher)
        adapted = student_embedding if adapter is None else adapter(student_embedding)
        distance = feature_mse_loss if self.distance == "mse" else feature_cosine_loss
        return super().terms(student, teacher, targets, adapter) | {"feature": distance(adapted, teacher_embedding)}


def feature_mse_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean squared difference over all elements, []. Both have the same shape."""
    return F.mse_loss(at_least_float32(student), at_least_float32(teacher))


def feature_cosine_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return 1 - cosine similarity of [B, D] vectors, mean over the batch, []. A zero row has no gradient."""
    cosines = F.cosine_similarity(at_least_float32(student), at_least_float32(teacher), dim=1)
    return 1 - torch.where((student != 0).any(1), cosines, 0.0).mean()
