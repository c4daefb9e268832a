"""Decoupled knowledge distillation (Zhao et al. 2022, "Decoupled Knowledge Distillation", arXiv:2203.08679).

    loss  = ce_weight * CE + warm * (alpha * TCKD + beta * NCKD),   warm = min(epoch / warmup_epochs, 1)
    TCKD  = T^2 * KL(b_t || b_s),  b = (p_label, 1 - p_label)                 target class against all others
    NCKD  = T^2 * KL(q_t || q_s),  q = softmax over all classes except the label
    KL(teacher || student) = TCKD / T^2 + (1 - p_label of the teacher) * NCKD / T^2      for each image

Shapes: logits [B, C], labels [B]. p = softmax(logits / T). Defaults are the authors' for CIFAR-100 in mdistiller: CE
weight 1, alpha 1, beta 8, T 4, 20 epochs of warm-up. Their configuration files set another beta for some pairs of
networks, see spec/published_cifar100.json. The method requires the teacher's logits. Here the label's logit is removed
from q. Public code instead subtracts 1000 from it and computes log(softmax). Both fail for large logits.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from raykd.config import NonNegative
from raykd.methods.method import Adapter, LinearWarmup, Method, Need, Temperature
from raykd.methods.precision import in_float32
from raykd.outputs import Outputs, Targets


@dataclass(frozen=True)
class DKD(LinearWarmup, Method):
    """KD in two parts: the label's class (TCKD), and the other classes (NCKD)."""

    kind: ClassVar[str] = "dkd"
    paper: ClassVar[str] = "arXiv:2203.08679"
    needs: ClassVar[frozenset[Need]] = frozenset({"logits"})
    works_with_top_classes: ClassVar[bool] = False  # NCKD rescales the other classes to a sum of 1, with their errors
    alpha: NonNegative = 1.0  # weight of TCKD
    beta: NonNegative = 8.0  # weight of NCKD
    temperature: Temperature = 4.0  # softens the outputs of student and teacher
    warmup_epochs: NonNegative = 20.0  # epochs over which alpha and beta rise linearly; 0 for no warm-up
    ce_weight: NonNegative = 1.0  # weight of the labels' cross-entropy

    def weights(self, epoch: int) -> dict[str, float]:
        warm = self.warmup(epoch)
        return {"ce": self.ce_weight, "tckd": warm * self.alpha, "nckd": warm * self.beta}

    def terms(self, student: Outputs, teacher: Outputs, targets: Targets, adapter: Adapter) -> dict[str, Tensor]:
        inputs = student.logits, teacher.logits, targets.labels, self.temperature
        return {"tckd": tckd_loss(*inputs), "nckd": nckd_loss(*inputs)}


def dkd_loss(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, alpha: float, beta: float, temperature: float
) -> Tensor:
    """Return alpha * TCKD + beta * NCKD, both with temperature^2, [] in nats. Shapes as in `tckd_loss`."""
    target = tckd_loss(student_logits, teacher_logits, labels, temperature)
    return alpha * target + beta * nckd_loss(student_logits, teacher_logits, labels, temperature)


@in_float32
def tckd_loss(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Return temperature^2 * KL of (p_label, 1 - p_label), mean over the batch, [] in nats.

    Shapes: logits [B, C], labels int64 [B].
    """
    student, teacher = (_label_or_not(logits / temperature, labels) for logits in (student_logits, teacher_logits))
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


@in_float32
def nckd_loss(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Return temperature^2 * KL over all classes except the label, [] in nats. Shapes as in `tckd_loss`."""
    others = (_other_logits(logits / temperature, labels) for logits in (student_logits, teacher_logits))
    student, teacher = (F.log_softmax(logits, dim=1) for logits in others)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def _label_or_not(logits: Tensor, labels: Tensor) -> Tensor:
    """Return log of (p_label, 1 - p_label), [B, 2]. log(1 - p) itself would round to -inf."""
    others = _other_logits(logits, labels).logsumexp(1, keepdim=True)
    return F.log_softmax(torch.cat([logits.gather(1, labels[:, None]), others], dim=1), dim=1)


def _other_logits(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the logits without the label's, [B, C - 1]."""
    other = torch.arange(logits.shape[1] - 1, device=logits.device)
    return logits.gather(1, other + (other >= labels[:, None]))
