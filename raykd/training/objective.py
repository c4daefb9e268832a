"""Student, adapter and method as one module: views and the teacher's outputs in, loss terms out.

DDP wraps this and not the student alone, so that an adapter's gradients are averaged over workers too.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raykd.methods import Method
from raykd.models import ImageModel
from raykd.outputs import Outputs, Targets


class Objective(nn.Module):
    """uint8 views [B, 3, H, W], Targets and teacher's Outputs -> {'ce': [], ..., 'top1': []}, float32, unweighted."""

    def __init__(self, student: ImageModel, method: Method, adapter: nn.Module | None, label_smoothing: float) -> None:
        super().__init__()
        self.student = student
        self.adapter = adapter
        self.method = method
        self.label_smoothing = label_smoothing

    def forward(self, images: Tensor, targets: Targets, teacher: Outputs | None) -> dict[str, Tensor]:
        student = self.student(images)
        logits = student.logits.float()
        labelled = self.method.labelled(student).float()
        terms = {"ce": F.cross_entropy(labelled, targets.labels, label_smoothing=self.label_smoothing)}
        if teacher is not None:
            terms |= self.method.terms(student, teacher, targets, self.adapter)
        with torch.no_grad():
            terms["top1"] = (logits.argmax(1) == targets.labels).float().mean() * 100  # measured, never weighed
        return terms
