"""Decoupled knowledge distillation (Zhao et al. 2022, "Decoupled Knowledge Distillation", arXiv:2203.08679).

    loss  = ce_weight * CE + warm * (alpha * TCKD + beta * NCKD),   warm = min(epoch / warmup_epochs, 1)
    TCKD  = T^2 * KL(b_t || b_s),  b = (p_label, 1 - p_label)                 target against all others
    NCKD  = T^2 * KL(q_t || q_s),  q = softmax over the classes but the label
    KL(teacher || student) = TCKD / T^2 + (1 - p_label of the teacher) * NCKD / T^2      for each image

Shapes: logits [B, C], labels [B]. p = softmax(logits / T). Defaults are the authors' for CIFAR-100 in mdistiller: CE
weight 1, alpha 1, beta 8, T 4, 20 epochs of warm-up. Their configuration files set another beta for some pairs of
networks: 2 for ResNet-56 -> ResNet-20, 6 for VGG-13 -> VGG-8 and WRN-40-2 -> WRN-16-2. The method requires the
teacher's logits. The label is left out of q, where public code subtracts 1000 from its logit and takes log(softmax):
both go wrong for large logits.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raykd.methods.method import Method, Need
from raykd.methods.precision import in_float32
from raykd.outputs import Outputs, Targets


@dataclass(frozen=True)
class DKD(Method):
    """alpha weighs the target's term, beta that of the other classes; both rise over `warmup_epochs`, 0 for at once."""

    kind: ClassVar[str] = "dkd"
    paper: ClassVar[str] = "arXiv:2203.08679"
    needs: ClassVar[frozenset[Need]] = frozenset({"logits"})
    alpha: float = 1.0
    beta: float = 8.0
    temperature: float = 4.0
    warmup_epochs: float = 20.0
    ce_weight: float = 1.0

    def check(self) -> None:
        for name in ("alpha", "beta", "warmup_epochs", "ce_weight"):
            self.require(0 <= getattr(self, name) < float("inf"), name, "must be 0 or more")
        self.require(0 < self.temperature < float("inf"), "temperature", "must be greater than 0; 1 to 8 are usual")

    def weights(self, epoch: int) -> dict[str, float]:
        warm = min(epoch / self.warmup_epochs, 1.0) if self.warmup_epochs else 1.0
        return {"ce": self.ce_weight, "tckd": warm * self.alpha, "nckd": warm * self.beta}

    def terms(
        self, student: Outputs, teacher: Outputs, targets: Targets, adapter: nn.Module | None
    ) -> dict[str, Tensor]:
        given = student.logits, teacher.logits, targets.labels
        return {"tckd": tckd_loss(*given, self.temperature), "nckd": nckd_loss(*given, self.temperature)}


@in_float32
def tckd_loss(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """temperature^2 * KL of (p_label, 1 - p_label), mean over the batch; 0 when both agree. Shapes as `dkd_loss`."""
    student, teacher = (_label_or_not(logits / temperature, labels) for logits in (student_logits, teacher_logits))
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


@in_float32
def nckd_loss(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """temperature^2 * KL of the outputs softened over the classes but the label; 0 for two classes."""
    student, teacher = (
        F.log_softmax(_others(logits / temperature, labels), dim=1) for logits in (student_logits, teacher_logits)
    )
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def _label_or_not(logits: Tensor, labels: Tensor) -> Tensor:
    """[B, 2]: log p of the label, and log of what the others have together (never log(1 - p), which rounds to -inf)."""
    pair = torch.cat([logits.gather(1, labels[:, None]), _others(logits, labels).logsumexp(1, keepdim=True)], dim=1)
    return F.log_softmax(pair, dim=1)


def _others(logits: Tensor, labels: Tensor) -> Tensor:
    """[B, C - 1]: the logits but the label's."""
    other = torch.arange(logits.shape[1] - 1, device=logits.device)
    return logits.gather(1, other + (other >= labels[:, None]))
