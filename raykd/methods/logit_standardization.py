"""Logit standardization (Sun et al. 2024, "Logit Standardization in Knowledge Distillation", arXiv:2403.01427).

    z(x)                       = (x - mean(x)) / (std(x) + 1e-7)        over one image's logits; unbiased std
    LogitStandardization  loss = ce_weight * CE + weight * T^2 * KL(z teacher || z student)
    StandardizedDKD       loss = ce_weight * CE + warm * weight * (alpha * TCKD + beta * NCKD) of z(logits)

The student then learns the relations of the teacher's logits, not their mean or scale. Shapes: logits [B, C].
Both methods require the teacher's logits. Defaults are the authors' for CIFAR-100, from
sunshangquan/logit-standardization-KD (`--logit-stand --base-temp 2 --kd-weight 9`): T 2 and weight 9 for both. KD has
CE weight 0.1 (mdistiller/engine/cfg.py). DKD keeps its CE weight 1, alpha 1, beta 8 and 20 epochs of warm-up, so
its terms have weights 9 and 72. Before 2024-05-18 the authors' tools/train.py used 81 for the latter and DKD's
temperature 4.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from raykd.config import Interval, NonNegative
from raykd.methods.dkd import DKD
from raykd.methods.kd import kd_loss
from raykd.methods.method import Adapter, Method, Need, Temperature
from raykd.methods.precision import ROUNDING, in_float32
from raykd.outputs import Outputs, Targets

_EPSILON = 1e-7  # the authors' value


@dataclass(frozen=True)
class LogitStandardization(Method):
    """KD of standardized logits."""

    kind: ClassVar[str] = "logit_standardization"
    paper: ClassVar[str] = "arXiv:2403.01427"
    needs: ClassVar[frozenset[Need]] = frozenset({"logits"})
    reads_labels: ClassVar[bool] = False
    works_with_top_classes: ClassVar[bool] = False  # mean and std are those of all logits
    # softens the standardized logits
    temperature: Annotated[float, Interval("(0, inf)", "2 is the authors'")] = 2.0
    weight: NonNegative = 9.0  # weight of the KD term
    ce_weight: NonNegative = 0.1  # weight of the labels' cross-entropy

    def weights(self, epoch: int) -> dict[str, float]:
        return {"ce": self.ce_weight, "kd": self.weight}

    def terms(self, student: Outputs, teacher: Outputs, targets: Targets, adapter: Adapter) -> dict[str, Tensor]:
        return {"kd": kd_loss(standardize(student.logits), standardize(teacher.logits), self.temperature)}


@dataclass(frozen=True)
class StandardizedDKD(DKD):
    """DKD of standardized logits."""

    kind: ClassVar[str] = "standardized_dkd"
    paper: ClassVar[str] = "arXiv:2403.01427"
    temperature: Temperature = 2.0
    weight: NonNegative = 9.0  # multiplies alpha and beta

    def weights(self, epoch: int) -> dict[str, float]:
        dkd = super().weights(epoch)
        return {name: weight if name == "ce" else self.weight * weight for name, weight in dkd.items()}

    def terms(self, student: Outputs, teacher: Outputs, targets: Targets, adapter: Adapter) -> dict[str, Tensor]:
        student, teacher = (outputs._replace(logits=standardize(outputs.logits)) for outputs in (student, teacher))
        return super().terms(student, teacher, targets, adapter)


def logit_standardization_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Return KL(teacher || student) of standardized, softened logits [B, C], without temperature^2: [] in nats."""
    return kd_loss(standardize(student_logits), standardize(teacher_logits), temperature) / temperature**2


@in_float32
def standardize(logits: Tensor) -> Tensor:
    """Return logits [B, C] with mean 0 and standard deviation 1 for each image; 0 if all logits are equal."""
    centered = logits - logits.mean(1, keepdim=True)
    deviation = logits.std(1, keepdim=True)
    # If the differences are rounding noise, dividing by 1e-7 would give a gradient of 1e7.
    varies = deviation > ROUNDING * torch.finfo(logits.dtype).eps * logits.detach().abs().amax(1, keepdim=True)
    return torch.where(varies, centered / (deviation + _EPSILON), 0.0)
