"""What methods on the inside of a teacher share: their terms come on top of labels and soft targets.

    loss = ce_weight * CE + kd_weight * KD(temperature) + the method's own terms

'KD plus any of them' is a `kd_weight` above 0: AttentionTransfer(ce_weight=0.1, kd_weight=0.9). The defaults, 1 and 0,
are what the authors compare with. KD's term is measured at weight 0 too: it tells how near to the teacher a student is.
"""

from dataclasses import dataclass, fields
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from raykd.errors import ConfigError, plural
from raykd.methods.kd import kd_loss
from raykd.methods.method import Method, Need
from raykd.outputs import Outputs, Targets


@dataclass(frozen=True)
class FeatureMethod(Method):
    """ce_weight and kd_weight >= 0 weigh labels and soft targets of `temperature`; subclasses add terms and weights."""

    needs: ClassVar[frozenset[Need]] = frozenset({"logits", "embedding"})
    ce_weight: float = 1.0
    kd_weight: float = 0.0
    temperature: float = 4.0

    def check(self) -> None:
        for name in (item.name for item in fields(self) if item.name.endswith("weight")):
            self.require(0 <= getattr(self, name) < float("inf"), name, "must be 0 or more")
        self.require(0 < self.temperature < float("inf"), "temperature", "must be greater than 0; 1 to 8 are usual")

    def weights(self, epoch: int) -> dict[str, float]:
        return {"ce": self.ce_weight, "kd": self.kd_weight}

    def terms(
        self, student: Outputs, teacher: Outputs, targets: Targets, adapter: nn.Module | None
    ) -> dict[str, Tensor]:
        return {"kd": kd_loss(student.logits, teacher.logits, self.temperature)}


def embeddings(student: Outputs, teacher: Outputs) -> tuple[Tensor, Tensor]:
    """Both embeddings, [B, D_s] and [B, D_t]."""
    assert student.embedding is not None and teacher.embedding is not None
    return student.embedding, teacher.embedding


@dataclass(frozen=True)
class StageMethod(FeatureMethod):
    """On the maps [B, K, H, W] of `stages` of both models, counted from 0, or from -1 at the end; () for all."""

    needs: ClassVar[frozenset[Need]] = frozenset({"logits", "features"})
    stages: tuple[int, ...] = ()

    def check(self) -> None:
        super().check()
        self.require(len(set(self.stages)) == len(self.stages), "stages", "names a stage twice")

    def used(self, outputs: Outputs) -> Outputs:
        """Return the outputs with the chosen stages' maps; another stage keeps its place, with a map of no channels."""
        chosen = {stage % len(outputs.features) for stage in self.stages or range(len(outputs.features))}
        maps = (
            stage_map if number in chosen else stage_map[:, :0] for number, stage_map in enumerate(outputs.features)
        )
        return outputs._replace(features=tuple(maps))

    def adapter(self, student: Outputs, teacher: Outputs, images: Targets) -> nn.Module | None:
        """None; raises ConfigError where the stages cannot be paired."""
        self.pairs(student, teacher)
        return None

    def pairs(self, student: Outputs, teacher: Outputs) -> list[tuple[Tensor, Tensor]]:
        """(student's map, teacher's map) of each stage; raises ConfigError where a model has no such stage."""
        require_feature_maps(self, student=student, teacher=teacher)
        numbers = len(student.features), len(teacher.features)
        if not self.stages and numbers[0] != numbers[1]:
            raise ConfigError(
                f"method = {self.title()}: the student has {plural(numbers[0], 'stage')} and the teacher {numbers[1]}; "
                "name those to pair, such as --set method.stages=-3,-2,-1"
            )
        stages = self.stages or range(numbers[0])
        for stage in stages:
            self.require(-min(numbers) <= stage < min(numbers), "stages", f"the smaller model has {min(numbers)}")
        return [(student.features[stage], teacher.features[stage]) for stage in stages]


def require_feature_maps(method: Method, **models: Outputs) -> None:
    """Raise ConfigError where one of `models`, by 'student' or 'teacher', gives none."""
    for who, outputs in models.items():
        if not outputs.features:
            raise ConfigError(
                f"method = {method.title()}: the {who}'s model gives no maps of its stages; take one that does, such "
                "as a ResNet or a ViT, or a method on logits or embeddings"
            )


def pool_to_smaller(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Maps [B, K, H, W] averaged down to the smaller H and W of the two, as AT, NST and VID do."""
    size = min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3])
    return tuple(maps if maps.shape[2:] == size else F.adaptive_avg_pool2d(maps, size) for maps in (student, teacher))  # type: ignore[return-value]
