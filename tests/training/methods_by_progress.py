"""Custom methods whose terms depend on the progress of the training."""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from raykd.methods import KD
from raykd.outputs import Outputs, Targets


@dataclass(frozen=True)
class Annealed(KD):
    """KD with a temperature that falls from 4 to 1, and the progress as a term."""

    kind: ClassVar[str] = "own_annealed"
    relates_images: ClassVar[bool] = True  # so that several workers gather its targets

    def terms(
        self, student: Outputs, teacher: Outputs, targets: Targets, adapter: nn.Module | None
    ) -> dict[str, Tensor]:
        assert targets.progress is not None
        temperature = 4 - 3 * targets.progress
        probabilities = (teacher.logits.float() / temperature).softmax(1)
        kd = F.cross_entropy(student.logits.float() / temperature, probabilities) * temperature**2
        return {"kd": kd, "progress": targets.progress}

    def weights(self, epoch: int) -> dict[str, float]:
        return {**super().weights(epoch), "progress": 0.0}


@dataclass(frozen=True)
class Vanishing(KD):
    """Divides by a number that falls to 0 shortly before the end."""

    kind: ClassVar[str] = "own_vanishing"

    def terms(
        self, student: Outputs, teacher: Outputs, targets: Targets, adapter: nn.Module | None
    ) -> dict[str, Tensor]:
        assert targets.progress is not None
        return {"kd": (student.logits - teacher.logits).abs().mean() / (0.9 - targets.progress).clamp(min=0)}
