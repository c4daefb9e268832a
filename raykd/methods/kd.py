"""Soft targets (Hinton, Vinyals, Dean 2015, "Distilling the Knowledge in a Neural Network", arXiv:1503.02531).

    loss = alpha * CE(student, labels) + (1 - alpha) * temperature^2 * KL(teacher || student)
    KL   = sum_c p_t (log p_t - log p_s),  p = softmax(logits / temperature)

Shapes: logits [B, C], labels [B]. Defaults: temperature 4, as in RepDistiller and mdistiller on CIFAR-100, and alpha
0.5, which weights labels and teacher equally. Both repositories published their KD results with alpha 0.1 (CE 0.1, KD
0.9); set alpha=0.1 to compare with them. The factor temperature^2 applies at every alpha, 0 and 1 included: it keeps
the gradient's size as the temperature grows (section 2 of the paper).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from raykd.methods.alpha import AlphaWeighted
from raykd.methods.method import Adapter, Temperature
from raykd.methods.precision import at_least_float32
from raykd.outputs import Outputs, Targets


@dataclass(frozen=True)
class KD(AlphaWeighted):
    """The student imitates the teacher's softened probabilities."""

    kind: ClassVar[str] = "kd"
    paper: ClassVar[str] = "arXiv:1503.02531"
    teacher_term: ClassVar[str] = "kd"
    temperature: Temperature = 4.0  # softens the outputs of student and teacher

    def terms(self, student: Outputs, teacher: Outputs, targets: Targets, adapter: Adapter) -> dict[str, Tensor]:
        return {"kd": kd_loss(student.logits, teacher.logits, self.temperature)}


def kd_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Return temperature^2 * KL(teacher || student) of the softened outputs, mean over the batch, [] in nats.

    Logits are [B, C] of any float type; half precision is computed in float32.
    """
    student = F.log_softmax(at_least_float32(student_logits) / temperature, dim=1)
    teacher = F.log_softmax(at_least_float32(teacher_logits) / temperature, dim=1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def distillation_loss(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, alpha: float = 0.5, temperature: float = 4.0
) -> Tensor:
    """Return alpha * CE + (1 - alpha) * kd_loss, mean over the batch, [] in nats. Logits [B, C], labels int64 [B]."""
    cross_entropy = F.cross_entropy(at_least_float32(student_logits), labels)
    return alpha * cross_entropy + (1 - alpha) * kd_loss(student_logits, teacher_logits, temperature)
