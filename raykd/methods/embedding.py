"""Regression of the teacher's embedding, for teachers without a classifier and for training without labels.

    loss = ce_weight * CE + kd_weight * KD(temperature) + weight * distance(projection(student), teacher)

The distance is one minus the cosine, or the mean squared error. Shapes: embeddings [B, D_s] and [B, D_t]. A linear
projection D_s -> D_t is trained with the student, also if the widths are equal: the student's embedding then need not
have the axes of the teacher's. FitNets (Romero et al. 2014, arXiv:1412.6550) regresses hidden layers in this way;
AM-RADIO (Ranzinger et al. 2023, arXiv:2312.06709) distills foundation models by the cosine of their summary vectors.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from raykd.config import NonNegative
from raykd.methods.feature_kd import feature_cosine_loss, feature_mse_loss
from raykd.methods.feature_method import FeatureMethod, embeddings
from raykd.methods.method import Adapter
from raykd.outputs import Outputs, Targets


@dataclass(frozen=True)
class EmbeddingRegression(FeatureMethod):
    """A linear projection of the student's embedding imitates the teacher's embedding."""

    kind: ClassVar[str] = "embedding"
    paper: ClassVar[str] = "arXiv:2312.06709"
    weight: NonNegative = 1.0  # weight of the distance
    distance: Literal["cosine", "mse"] = "cosine"  # between the projected embedding and the teacher's

    def weights(self, epoch: int) -> dict[str, float]:
        return super().weights(epoch) | {"embedding": self.weight}

    def adapter(self, student: Outputs, teacher: Outputs, images: Targets) -> Adapter:
        student_width, teacher_width = (vectors.shape[1] for vectors in embeddings(student, teacher))
        return nn.Linear(student_width, teacher_width)

    def terms(self, student: Outputs, teacher: Outputs, targets: Targets, adapter: Adapter) -> dict[str, Tensor]:
        assert adapter is not None
        student_embedding, teacher_embedding = embeddings(student, teacher)
        distance = feature_cosine_loss if self.distance == "cosine" else feature_mse_loss
        term = distance(adapter(student_embedding), teacher_embedding)
        return super().terms(student, teacher, targets, adapter) | {"embedding": term}
