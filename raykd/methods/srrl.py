"""Softmax regression representation learning (Yang et al. 2021, ICLR, OpenReview:ZzwDy_wiWv).

    loss = ce_weight * CE + kd_weight * KD + embedding_weight * mean (g - f_t)^2 + logits_weight * mean (h(g) - z_t)^2
    g    = connector(f_s) = relu(batch_norm(W f_s)),   h the teacher's classifier, z_t = h(f_t) its logits

f are the embeddings. The student's embedding imitates the teacher's, most of all in the directions that the teacher's
classifier h depends on. h is not trained. The student has its own classifier, which learns from the labels.

Shapes: embeddings [B, D_s] and [B, D_t], logits [B, C]. The connector is trained with the student. Its ReLU is left out
if the teacher's embedding has negative values, such as a ViT's. The authors' code for ImageNet applies the connector to
the last feature map and then averages over its positions; here it is applied to the embedding, as in SimKD's code for
CIFAR-100 (arXiv:2203.14001). Defaults: both weights 1, with CE weight 1, as in the authors' code. SimKD's table for
CIFAR-100 has kd_weight 1 in addition. The method requires the teacher's embedding and its classifier, one linear layer.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from raykd.config import NonNegative
from raykd.methods.feature_kd import feature_mse_loss
from raykd.methods.feature_method import FeatureMethod, embeddings
from raykd.methods.method import Adapter
from raykd.methods.teacher_classifier import TeacherClassifier
from raykd.outputs import Outputs, Targets


@dataclass(frozen=True)
class SRRL(FeatureMethod):
    """The teacher's classifier returns the teacher's logits for the student's embedding too."""

    kind: ClassVar[str] = "srrl"
    paper: ClassVar[str] = "OpenReview:ZzwDy_wiWv"
    works_with_top_classes: ClassVar[bool] = False  # the squared error compares the logits of all classes
    embedding_weight: NonNegative = 1.0  # weight of the distance to the teacher's embedding
    logits_weight: NonNegative = 1.0  # weight of the distance to the teacher's logits, after the teacher's classifier

    def weights(self, epoch: int) -> dict[str, float]:
        return super().weights(epoch) | {"srrl_embedding": self.embedding_weight, "srrl_logits": self.logits_weight}

    def uses_logits(self, epochs: int) -> bool:
        """Return whether the teacher's logits affect the loss. The student's are read by KD's term alone."""
        return super().uses_logits(epochs) or self.logits_weight > 0

    def adapter(self, student: Outputs, teacher: Outputs, images: Targets) -> nn.Module:
        parts: dict[str, nn.Module] = {"connector": connector(*embeddings(student, teacher))}
        if teacher.logits.shape[1]:
            parts["classifier"] = TeacherClassifier()
        return nn.ModuleDict(parts)

    def terms(self, student: Outputs, teacher: Outputs, targets: Targets, adapter: Adapter) -> dict[str, Tensor]:
        assert isinstance(adapter, nn.ModuleDict)
        student_embedding, teacher_embedding = embeddings(student, teacher)
        connected = adapter["connector"](student_embedding[:, :, None, None]).flatten(1)
        terms = {"srrl_embedding": feature_mse_loss(connected, teacher_embedding)}
        if "classifier" in adapter:
            terms["srrl_logits"] = feature_mse_loss(adapter["classifier"](connected), teacher.logits)
        else:  # the teacher has no classifier, and the term's weight is 0
            terms["srrl_logits"] = torch.zeros_like(terms["srrl_embedding"])
        return super().terms(student, teacher, targets, adapter) | terms


def connector(student: Tensor, teacher: Tensor) -> nn.Sequential:
    """Return a layer from embeddings like `student` [B, D_s, 1, 1] to embeddings like `teacher` [B, D_t, 1, 1].

    It is a 1x1 convolution, because batch norm of feature maps can synchronize over workers (`sync_batch_norm`).
    """
    convolution = nn.Conv2d(student.shape[1], teacher.shape[1], 1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    activation = [nn.ReLU()] if not (teacher < 0).any() else []
    return nn.Sequential(convolution, nn.BatchNorm2d(teacher.shape[1]), *activation)
