"""A distillation token (Touvron et al. 2021, "Training data-efficient image transformers & distillation through
attention", arXiv:2012.12877).

    loss  = alpha * CE(class head, labels) + (1 - alpha) * token
    token = CE(distillation head, argmax of the teacher)             hard, equation 3
            temperature^2 * KL(teacher || distillation head)         soft, equation 2

A distillation token passes through the student's layers beside the class token, and a second head on it learns the
teacher's prediction. At test time the logits are the mean of both heads', as in the authors' code (their text adds the
two softmax outputs). The recipe's label smoothing applies to the labels, not to the teacher's prediction.
Shapes: heads and teacher's logits [B, C]. Defaults are the authors': alpha 1/2 and hard labels. Their soft variant uses
alpha 0.9 and temperature 3. The soft term is a mean over the batch, as in their text; their code divides the sum by
B * C.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor

from raykd.config import Interval
from raykd.methods.alpha import AlphaWeighted
from raykd.methods.hard_labels import hard_label_loss
from raykd.methods.kd import kd_loss
from raykd.methods.method import Adapter
from raykd.outputs import Outputs, Targets


@dataclass(frozen=True)
class DeiT(AlphaWeighted):
    """A distillation token learns from the teacher."""

    kind: ClassVar[str] = "deit"
    paper: ClassVar[str] = "arXiv:2012.12877"
    teacher_term: ClassVar[str] = "token"
    needs_distillation_token: ClassVar[bool] = True
    # The temperature of soft targets; with None the token learns hard labels, the teacher's predictions.
    temperature: Annotated[float | None, Interval("(0, inf)", "the paper's is 3")] = None

    def supervised_logits(self, student: Outputs) -> Tensor:
        class_head, _ = student.heads
        return class_head

    def terms(self, student: Outputs, teacher: Outputs, targets: Targets, adapter: Adapter) -> dict[str, Tensor]:
        _, distillation_head = student.heads
        if self.temperature is None:
            return {"token": hard_label_loss(distillation_head, teacher.logits)}
        return {"token": kd_loss(distillation_head, teacher.logits, self.temperature)}
