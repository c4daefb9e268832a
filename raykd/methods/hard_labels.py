"""The teacher's prediction as a hard label (Touvron et al. 2020, DeiT, section 3, arXiv:2012.12877), on the usual head.

    loss = alpha * CE(student, labels) + (1 - alpha) * CE(student, argmax of the teacher)

Shapes: logits [B, C], labels [B]. The default, alpha 1/2, is the authors' (equation 3). The method requires
the teacher's logits. The distillation token and head that the authors give a ViT for this label are in deit.py.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from raykd.methods.alpha import AlphaWeighted
from raykd.methods.method import Adapter
from raykd.methods.precision import at_least_float32
from raykd.outputs import Outputs, Targets


@dataclass(frozen=True)
class HardLabels(AlphaWeighted):
    """The teacher's prediction is a second label."""

    kind: ClassVar[str] = "hard_labels"
    paper: ClassVar[str] = "arXiv:2012.12877"
    teacher_term: ClassVar[str] = "hard"

    def terms(self, student: Outputs, teacher: Outputs, targets: Targets, adapter: Adapter) -> dict[str, Tensor]:
        return {"hard": hard_label_loss(student.logits, teacher.logits)}


def hard_label_loss(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Return the cross-entropy with the teacher's top class, mean over the batch, [] in nats. Shapes: [B, C]."""
    return F.cross_entropy(at_least_float32(student_logits), teacher_logits.argmax(1))
