"""Base classes of embedding-based and feature-based methods, whose terms are added to cross-entropy and KD.

    loss = ce_weight * CE + kd_weight * KD(temperature) + the subclass's terms

Combine any of them with KD by a `kd_weight` above 0: AttentionTransfer(ce_weight=0.1, kd_weight=0.9). The defaults,
ce_weight=1 and kd_weight=0, are what the authors usually compare. The KD term is logged at weight 0 too, as the
distance to the teacher, unless the student or the teacher has no classifier.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from raykd.config import NonNegative
from raykd.errors import ConfigError, plural
from raykd.methods.kd import kd_loss
from raykd.methods.method import Adapter, Method, Need, Temperature
from raykd.outputs import Outputs, Targets


@dataclass(frozen=True)
class FeatureMethod(Method):
    """The base class of embedding-based and feature-based methods."""

    needs: ClassVar[frozenset[Need]] = frozenset({"logits", "embedding"})
    reads_labels: ClassVar[bool] = False
    logit_terms: ClassVar[frozenset[str] | None] = frozenset({"kd"})
    works_with_top_classes: ClassVar[bool] = True  # only KD's term reads logits
    ce_weight: NonNegative = 1.0  # weight of the labels' cross-entropy
    kd_weight: NonNegative = 0.0  # weight of the KD term
    temperature: Temperature = 4.0  # temperature of the KD term

    def weights(self, epoch: int) -> dict[str, float]:
        return {"ce": self.ce_weight, "kd": self.kd_weight}

    def terms(self, student: Outputs, teacher: Outputs, targets: Targets, adapter: Adapter) -> dict[str, Tensor]:
        if not (student.logits.shape[1] and teacher.logits.shape[1]):  # one has no classifier
            return {}
        return {"kd": kd_loss(student.logits, teacher.logits, self.temperature)}


def embeddings(student: Outputs, teacher: Outputs) -> tuple[Tensor, Tensor]:
    """Return both embeddings, [B, D_s] and [B, D_t]."""
    assert student.embedding is not None and teacher.embedding is not None
    return student.embedding, teacher.embedding


@dataclass(frozen=True)
class StageMethod(FeatureMethod):
    """A feature-based method, on the feature maps [B, K, H, W] of some `stages` of both models."""

    needs: ClassVar[frozenset[Need]] = frozenset({"logits", "features"})
    stages: tuple[int, ...] = ()  # stages of the feature maps, counted from 0, or backward from -1; () for all

    def check(self) -> None:
        super().check()
        self.require(len(set(self.stages)) == len(self.stages), "stages", "names a stage twice")

    def used(self, outputs: Outputs) -> Outputs:
        """Return the outputs with the feature maps of the chosen stages. The maps of other stages have no channels."""
        chosen = {stage % len(outputs.features) for stage in self.stages or range(len(outputs.features))}
        features = (x if stage in chosen else x[:, :0] for stage, x in enumerate(outputs.features))
        return outputs._replace(features=tuple(features))

    def adapter(self, student: Outputs, teacher: Outputs, images: Targets) -> Adapter:
        """Return None. Raises ConfigError if the stages cannot be paired."""
        self.pairs(student, teacher)
        return None

    def pairs(self, student: Outputs, teacher: Outputs) -> list[tuple[Tensor, Tensor]]:
        """Return (student's feature map, teacher's feature map) for each stage.

        Raises ConfigError if a model lacks a stage.
        """
        require_feature_maps(self, student=student, teacher=teacher)
        counts = len(student.features), len(teacher.features)
        if not self.stages and counts[0] != counts[1]:
            raise ConfigError(
                f"method = {self.title()}: the student has {plural(counts[0], 'stage')} and the teacher {counts[1]}; "
                "name the stages to pair, such as --set method.stages=-3,-2,-1"
            )
        stages = self.stages or range(counts[0])
        n = min(counts)
        problem = f"must lie in [{-n}, {n - 1}], because one of the models has only {plural(n, 'stage')}"
        for stage in stages:
            self.require(-n <= stage < n, "stages", problem)
        return [(student.features[stage], teacher.features[stage]) for stage in stages]


def require_feature_maps(method: Method, **models: Outputs) -> None:
    """Raise ConfigError if one of `models` ('student' or 'teacher') returns no feature maps."""
    for role, outputs in models.items():
        if not outputs.features:
            raise ConfigError(
                f"method = {method.title()}: the {role}'s model returns no feature maps; use one that does, such as a "
                "ResNet or a ViT, or a logit-based or embedding-based method"
            )


def pool_to_smaller(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Return both feature maps [B, K, H, W], average-pooled to the smaller height and width of the two."""
    size = min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3])
    return tuple(x if x.shape[2:] == size else F.adaptive_avg_pool2d(x, size) for x in (student, teacher))  # type: ignore[return-value]
