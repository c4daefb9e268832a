"""Student, adapter and method as one module: views and the teacher's outputs in, loss terms out.

DDP wraps this and not the student alone, so that an adapter's gradients are averaged over workers too. Where the method
relates the images of a batch, its terms are of the images of all workers, and the same on each; CE and top1 are always
of a worker's own images.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raykd.errors import ConfigError
from raykd.methods import Method
from raykd.models import ImageModel
from raykd.outputs import Mixed, Outputs, Targets
from raykd.training.group import SINGLE_WORKER, Group

STANDARD_TERMS = ("ce", "top1", "loss")


class Objective(nn.Module):
    """uint8 views [B, 3, H, W], Targets and teacher's Outputs -> {'ce': [], ..., 'top1': []}, float32, unweighted.

    'top1' is measured against `labels`: of mixed images, against the label with the larger share.
    """

    def __init__(
        self,
        student: ImageModel,
        method: Method,
        adapter: nn.Module | None,
        label_smoothing: float,
        group: Group = SINGLE_WORKER,
    ) -> None:
        super().__init__()
        self.student = student
        self.adapter = adapter
        self.method = method
        self.label_smoothing = label_smoothing
        self.group = group

    def forward(self, images: Tensor, targets: Targets, teacher: Outputs | None) -> dict[str, Tensor]:
        student = self.student(images)
        logits = student.logits.float()
        terms = {"ce": self._cross_entropy(self.method.labelled(student).float(), targets)}
        if teacher is not None:
            own = self._terms(student, teacher, targets)
            for name in STANDARD_TERMS:
                if name in own:
                    raise ConfigError(
                        f"method = {self.method.title()}: terms() gives '{name}', which is measured for every method "
                        "alike; rename the term"
                    )
            terms |= own
        with torch.no_grad():
            terms["top1"] = (logits.argmax(1) == targets.labels).float().mean() * 100  # measured, never weighed
        return terms

    def _terms(self, student: Outputs, teacher: Outputs, targets: Targets) -> dict[str, Tensor]:
        """Return the method's terms, of the images of all workers where the method relates images."""
        if self.method.relates_images and self.group.size > 1:
            student, teacher = (_joined(self.method.used(outputs), self.group) for outputs in (student, teacher))
            targets = _joined_targets(targets, self.group)
        return self.method.terms(student, teacher, targets, self.adapter)

    def _cross_entropy(self, logits: Tensor, targets: Targets) -> Tensor:
        """Of the labels, []; of mixed images each one's share of its own label's and the rest of its partner's."""
        if targets.mixed is None:
            return F.cross_entropy(logits, targets.labels, label_smoothing=self.label_smoothing)
        own, partners = (
            F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing, reduction="none")
            for labels in (targets.labels, targets.mixed.labels)
        )
        return torch.lerp(partners, own, targets.mixed.share).mean()


def _joined(outputs: Outputs, group: Group) -> Outputs:
    """Return the outputs for the images of all workers, in the order of one worker's batch."""
    return Outputs(
        group.gather_with_grad(outputs.logits),
        None if outputs.embedding is None else group.gather_with_grad(outputs.embedding),
        tuple(map(group.gather_with_grad, outputs.features)),
        tuple(map(group.gather_with_grad, outputs.heads)),
    )


def _joined_targets(targets: Targets, group: Group) -> Targets:
    mixed = targets.mixed and Mixed(*map(group.gather_with_grad, targets.mixed))
    return Targets(group.gather_with_grad(targets.labels), group.gather_with_grad(targets.index), mixed)
