"""DIST (Huang et al. 2022, "Knowledge Distillation from A Stronger Teacher", arXiv:2205.10536).

    loss  = ce_weight * CE + beta * inter + gamma * intra
    inter = T^2 * mean over images of 1 - r(p_s[i, :], p_t[i, :])      one image's relation between classes
    intra = T^2 * mean over classes of 1 - r(p_s[:, c], p_t[:, c])     one class's relation between images
    r     = Pearson's correlation,  p = softmax(logits / T)

Shapes: logits [B, C]. Defaults are those of the authors' code: beta 1, gamma 1, T 1; for CIFAR-100 they take T 4.
Of the teacher it needs logits.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm

from raykd.methods.method import Method, Need
from raykd.methods.precision import ROUNDING, in_float32
from raykd.outputs import Outputs, Targets


@dataclass(frozen=True)
class DIST(Method):
    """beta weighs the relations between classes, gamma those between the images of a batch."""

    kind: ClassVar[str] = "dist"
    paper: ClassVar[str] = "arXiv:2205.10536"
    needs: ClassVar[frozenset[Need]] = frozenset({"logits"})
    beta: float = 1.0
    gamma: float = 1.0
    temperature: float = 1.0
    ce_weight: float = 1.0

    def check(self) -> None:
        for name in ("beta", "gamma", "ce_weight"):
            self.require(0 <= getattr(self, name) < float("inf"), name, "must be 0 or more")
        self.require(0 < self.temperature < float("inf"), "temperature", "must be greater than 0; 1 to 4 are usual")

    def weights(self, epoch: int) -> dict[str, float]:
        return {"ce": self.ce_weight, "inter": self.beta, "intra": self.gamma}

    def terms(
        self, student: Outputs, teacher: Outputs, targets: Targets, adapter: nn.Module | None
    ) -> dict[str, Tensor]:
        given = student.logits, teacher.logits, self.temperature
        return {"inter": dist_inter_loss(*given), "intra": dist_intra_loss(*given)}


def dist_loss(student_logits: Tensor, teacher_logits: Tensor, beta: float, gamma: float, temperature: float) -> Tensor:
    """beta * inter + gamma * intra, the temperature^2 within. Shapes: logits [B, C]; returns []."""
    given = student_logits, teacher_logits, temperature
    return beta * dist_inter_loss(*given) + gamma * dist_intra_loss(*given)


@in_float32
def dist_inter_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """temperature^2 * (1 - correlation over the classes), mean over images: [] in [0, 2 temperature^2]."""
    return temperature**2 * (1 - _correlation(*_softened(student_logits, teacher_logits, temperature))).mean()


@in_float32
def dist_intra_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """temperature^2 * (1 - correlation over the batch), mean over classes: [] in [0, 2 temperature^2]."""
    student, teacher = _softened(student_logits, teacher_logits, temperature)
    return temperature**2 * (1 - _correlation(student.T, teacher.T)).mean()


def _softened(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    return (student_logits / temperature).softmax(1), (teacher_logits / temperature).softmax(1)


def _correlation(student: Tensor, teacher: Tensor) -> Tensor:
    """Pearson's, of each row: [N, M] -> [N]; 0 where a row is constant, with no gradient there."""
    return (_centred_units(student) * _centred_units(teacher)).sum(1)


def _centred_units(rows: Tensor) -> Tensor:
    """Rows less their mean, of length 1; 0 where only rounding is left: public code has gradients of 1e8 there."""
    centred = rows - rows.mean(1, keepdim=True)
    length = vector_norm(centred, dim=1, keepdim=True)
    varies = length > ROUNDING * torch.finfo(rows.dtype).eps * vector_norm(rows.detach(), dim=1, keepdim=True)
    return torch.where(varies, centred / length.where(varies, 1.0), 0.0)
