"""Cross-entropy with the labels alone, for teachers and baselines."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from raykd.methods.method import Adapter, Method
from raykd.outputs import Outputs, Targets


@dataclass(frozen=True)
class CrossEntropy(Method):
    """Train without a teacher: the only term is 'ce'."""

    kind: ClassVar[str] = "ce"

    def weights(self, epoch: int) -> dict[str, float]:
        return {"ce": 1.0}

    def terms(self, student: Outputs, teacher: Outputs, targets: Targets, adapter: Adapter) -> dict[str, Tensor]:
        return {}
