"""alpha: how a method divides a weight of 1 between the labels and the teacher.

    loss = alpha * CE(student, labels) + (1 - alpha) * the teacher's term

AlphaWeighted is the base class of soft targets (kd.py), hard labels and DeiT. Other methods weight the labels by
`ce_weight`, and each of their terms by a separate weight; DKD's paper calls one of those alpha too.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from raykd.config import Interval
from raykd.methods.method import Method, Need


@dataclass(frozen=True)
class AlphaWeighted(Method):
    """Base of methods with two terms, whose weights add up to 1."""

    needs: ClassVar[frozenset[Need]] = frozenset({"logits"})
    reads_labels: ClassVar[bool] = False
    works_with_top_classes: ClassVar[bool] = True  # soft targets, or the top class itself
    teacher_term: ClassVar[str]  # the name of the teacher's term
    # weight of the labels' cross-entropy
    alpha: Annotated[float, Interval("[0, 1]", "the teacher's term has the weight 1 - alpha")] = 0.5

    def weights(self, epoch: int) -> dict[str, float]:
        return {"ce": self.alpha, self.teacher_term: 1 - self.alpha}
