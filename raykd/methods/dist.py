"""DIST (Huang et al. 2022, "Knowledge Distillation from A Stronger Teacher", arXiv:2205.10536).

    loss  = ce_weight * CE + beta * inter + gamma * intra
    inter = T^2 * mean over images of 1 - r(p_s[i, :], p_t[i, :])      relations between the classes of one image
    intra = T^2 * mean over classes of 1 - r(p_s[:, c], p_t[:, c])     relations between the images for one class
    r     = x . y / (|x| |y| + 1e-8),  x and y centered,  p = softmax(logits / T)

Shapes: logits [B, C], B >= 2. Defaults are the authors' for CIFAR-100: CE weight 1, beta 2 and gamma 2 (their
paper's for classification) and T 4 (`dist_t4` in hunto/image_classification_sota). For ImageNet the authors use T 1.
The method requires the teacher's logits.

The 1e-8 is the authors'. It matters for classes that are almost absent from the batch, whose column of p is itself near
1e-8. Without it (the paper's formula, torchdistill) the gradients of such classes are 1,000 times those of the others.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor
from torch.linalg import vector_norm

from raykd.config import Interval, NonNegative
from raykd.methods.method import Adapter, Method, Need
from raykd.methods.precision import ROUNDING, in_float32
from raykd.outputs import Outputs, Targets

EPSILON = 1e-8  # the authors' value, added to the product of both norms


@dataclass(frozen=True)
class DIST(Method):
    """The student imitates correlations instead of exact probabilities."""

    kind: ClassVar[str] = "dist"
    paper: ClassVar[str] = "arXiv:2205.10536"
    needs: ClassVar[frozenset[Need]] = frozenset({"logits"})
    reads_labels: ClassVar[bool] = False
    works_with_top_classes: ClassVar[bool] = False  # correlations over the classes, and over the images for each one
    relates_images: ClassVar[bool] = True
    min_batch_size: ClassVar[int] = 2
    beta: NonNegative = 2.0  # weight of the relations between classes
    gamma: NonNegative = 2.0  # weight of the relations between the images of a batch
    # softens the outputs of student and teacher
    temperature: Annotated[float, Interval("(0, inf)", "1 to 4 are usual")] = 4.0
    ce_weight: NonNegative = 1.0  # weight of the labels' cross-entropy

    def weights(self, epoch: int) -> dict[str, float]:
        return {"ce": self.ce_weight, "inter": self.beta, "intra": self.gamma}

    def terms(self, student: Outputs, teacher: Outputs, targets: Targets, adapter: Adapter) -> dict[str, Tensor]:
        inputs = student.logits, teacher.logits, self.temperature
        return {"inter": dist_inter_loss(*inputs), "intra": dist_intra_loss(*inputs)}


def dist_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    beta: float,
    gamma: float,
    temperature: float,
    epsilon: float = EPSILON,
) -> Tensor:
    """Return beta * inter + gamma * intra, both with temperature^2: []. Logits [B, C]."""
    inputs = student_logits, teacher_logits, temperature, epsilon
    return beta * dist_inter_loss(*inputs) + gamma * dist_intra_loss(*inputs)


@in_float32
def dist_inter_loss(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float, epsilon: float = EPSILON
) -> Tensor:
    """Return temperature^2 * (1 - correlation over the classes), mean over images: [] in [0, 2 temperature^2]."""
    student, teacher = _softened(student_logits, teacher_logits, temperature)
    return temperature**2 * (1 - _correlation(student, teacher, epsilon)).mean()


@in_float32
def dist_intra_loss(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float, epsilon: float = EPSILON
) -> Tensor:
    """Return temperature^2 * (1 - correlation over the batch), mean over classes: [] in [0, 2 temperature^2]."""
    student, teacher = _softened(student_logits, teacher_logits, temperature)
    return temperature**2 * (1 - _correlation(student.T, teacher.T, epsilon)).mean()


def _softened(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    return (student_logits / temperature).softmax(1), (teacher_logits / temperature).softmax(1)


def _correlation(student: Tensor, teacher: Tensor, epsilon: float) -> Tensor:
    """Return Pearson's correlation of each row, [N, M] -> [N], with `epsilon` added to its denominator.

    It is 0 and has no gradient where a row is constant up to rounding. There the authors' code has a gradient of
    |y| / epsilon, up to 1e8.
    """
    x, x_length, x_varies = _centered(student)
    y, y_length, y_varies = _centered(teacher)
    varies = x_varies & y_varies
    denominator = (x_length * y_length + epsilon).where(varies, 1.0)
    return torch.where(varies, (x * y).sum(1) / denominator, 0.0)


def _centered(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the centered rows [N, M], their lengths [N], and whether each exceeds rounding noise, bool [N]."""
    centered = rows - rows.mean(1, keepdim=True)
    noise = ROUNDING * torch.finfo(rows.dtype).eps * vector_norm(rows.detach(), dim=1)
    varies = vector_norm(centered.detach(), dim=1) > noise
    centered = torch.where(varies[:, None], centered, 0.0)
    return centered, vector_norm(centered, dim=1), varies
