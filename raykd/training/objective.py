"""Student, adapter and method as one module that turns views and teacher outputs into loss terms, not yet weighted.

Their weights, such as alpha, are the method's (`Method.weights`); training_step.py applies them.

DDP wraps this module, not just the student, so that an adapter's gradients are averaged over workers too. If the method
relates the images of a batch, its terms cover the images of all workers and are equal on each. CE and top1 always cover
the images of one worker.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raykd.errors import ConfigError
from raykd.methods import CrossEntropy, Memory, Method
from raykd.models import ImageModel
from raykd.outputs import Mixed, Outputs, Targets
from raykd.training.adapters import absent_teacher
from raykd.training.group import Group
from raykd.training.weight_average import WeightAverage

STANDARD_TERMS = ("ce", "top1", "loss")


class Objective(nn.Module):
    """Map uint8 views [B, 3, H, W], Targets and Outputs to unweighted float32 terms {'ce': [], ..., 'top1': []}.

    A student without a classifier has neither 'ce' nor 'top1', nor the method's terms of logits.
    For mixed images 'top1' is computed with the label of the larger share.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        student: ImageModel,
        method: Method,
        adapter: nn.Module | None,
        label_smoothing: float,
        group: Group,
        class_weights: Tensor | None,
    ) -> None:
        """class_weights: of the cross-entropy, float32 [C]; None for equal ones."""
        super().__init__()
        self.student = student
        self.adapter = adapter
        self.memories = memories_of(adapter)
        self.method = method
        self.label_smoothing = label_smoothing
        self.group = group
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.average: WeightAverage | None = None  # of the student's weights, if the recipe has an ema_decay
        self.gather: Callable[[Tensor], Tensor] = group.gather_with_grad

    def forward(self, images: Tensor, targets: Targets, teacher: Outputs | None) -> dict[str, Tensor]:
        student = self.student(images)
        logits = student.logits.float()
        has_classifier = logits.shape[1] > 0
        terms: dict[str, Tensor] = {}
        if has_classifier:
            terms["ce"] = self._cross_entropy(self.method.supervised_logits(student).float(), targets)
        if teacher is None and type(self.method) is not CrossEntropy:
            teacher = absent_teacher(student)
        if teacher is not None:
            method_terms = self._terms(student, teacher, targets)
            for name in STANDARD_TERMS:
                if name in method_terms:
                    raise ConfigError(
                        f"method = {self.method.title()}: terms() returns '{name}', which raykd computes for every "
                        "method; rename the term"
                    )
            terms |= method_terms
        if not has_classifier:
            return terms
        with torch.no_grad():
            terms["top1"] = (logits.argmax(1) == targets.labels).float().mean() * 100  # a metric, not part of the loss
        return terms

    def _terms(self, student: Outputs, teacher: Outputs, targets: Targets) -> dict[str, Tensor]:
        """Return the method's terms, over the images of all workers if the method relates images."""
        if self.method.relates_images and self.group.size > 1:
            student, teacher = (self.method.used(outputs).map(self.gather) for outputs in (student, teacher))
            mixed = targets.mixed and Mixed(*map(self.gather, targets.mixed))
            targets = Targets(self.gather(targets.labels), self.gather(targets.index), mixed, targets.progress)
        return self.method.terms(student, teacher, targets, self.adapter)

    def _cross_entropy(self, logits: Tensor, targets: Targets) -> Tensor:
        """Return the cross-entropy with the labels, []. For mixed images it is interpolated between both labels.

        With class weights, an image counts by the weight of its label, and the mean is over the number of images.
        """
        if targets.mixed is None and self.class_weights is None:
            return F.cross_entropy(logits, targets.labels, label_smoothing=self.label_smoothing)
        first = self._per_image(logits, targets.labels)
        if targets.mixed is None:
            return first.mean()
        return torch.lerp(self._per_image(logits, targets.mixed.labels), first, targets.mixed.share).mean()

    def _per_image(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the weighted cross-entropy of each image, [B]."""
        losses = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing, reduction="none")
        return losses if self.class_weights is None else self.class_weights[labels] * losses


def memories_of(adapter: nn.Module | None) -> list[Memory]:
    """Return the memories among the modules of `adapter`, itself included."""
    return [module for module in adapter.modules() if isinstance(module, Memory)] if adapter is not None else []
