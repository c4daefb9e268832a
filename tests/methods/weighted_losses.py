"""Weighted sums of the pure losses, as the papers and the golden values of kd_losses.json have them."""

import torch.nn.functional as F
from torch import Tensor

from raykd.methods.dist import EPSILON, dist_inter_loss, dist_intra_loss
from raykd.methods.dkd import nckd_loss, tckd_loss
from raykd.methods.kd import kd_loss
from raykd.methods.logit_standardization import standardize
from raykd.methods.precision import at_least_float32


def distillation_loss(student: Tensor, teacher: Tensor, labels: Tensor, alpha: float, temperature: float) -> Tensor:
    """Return alpha * CE + (1 - alpha) * temperature^2 * KL."""
    cross_entropy = F.cross_entropy(at_least_float32(student), labels)
    return alpha * cross_entropy + (1 - alpha) * kd_loss(student, teacher, temperature)


def dkd_loss(student: Tensor, teacher: Tensor, labels: Tensor, alpha: float, beta: float, temperature: float) -> Tensor:
    """Return alpha * TCKD + beta * NCKD."""
    target = tckd_loss(student, teacher, labels, temperature)
    return alpha * target + beta * nckd_loss(student, teacher, labels, temperature)


def dist_loss(
    student: Tensor, teacher: Tensor, beta: float, gamma: float, temperature: float, epsilon: float = EPSILON
) -> Tensor:
    """Return beta * inter + gamma * intra."""
    inputs = student, teacher, temperature, epsilon
    return beta * dist_inter_loss(*inputs) + gamma * dist_intra_loss(*inputs)


def logit_standardization_kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return KL(teacher || student) of standardized, softened logits, without the temperature^2."""
    return kd_loss(standardize(student), standardize(teacher), temperature) / temperature**2
