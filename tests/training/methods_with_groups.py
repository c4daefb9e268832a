"""Custom methods whose adapter has other learning rates and weight decays than the student."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from raykd.methods import Method, ParameterGroup
from raykd.methods.method import Need
from raykd.outputs import Outputs, Targets


@dataclass(frozen=True)
class Scaled(Method):
    """Compares logits after two layers. The second one has its own learning rate and weight decay."""

    kind: ClassVar[str] = "own_scaled_groups"
    needs: ClassVar[frozenset[Need]] = frozenset({"logits"})
    lr_scale: float = 0.1
    weight_decay: float | None = 0.02

    def weights(self, epoch: int) -> dict[str, float]:
        return {"ce": 1.0, "gap": 1.0}

    def adapter(self, student: Outputs, teacher: Outputs, images: Targets) -> nn.Module | None:
        return nn.Sequential(nn.Linear(student.logits.shape[1], 6), nn.Linear(6, teacher.logits.shape[1]))

    def parameter_groups(self, adapter: nn.Module) -> Sequence[ParameterGroup]:
        layers: Any = adapter
        return [ParameterGroup(layers[1].parameters(), self.lr_scale, self.weight_decay)]

    def terms(
        self, student: Outputs, teacher: Outputs, targets: Targets, adapter: nn.Module | None
    ) -> dict[str, Tensor]:
        assert adapter is not None
        return {"gap": (adapter(student.logits) - teacher.logits).abs().mean()}


@dataclass(frozen=True)
class Wrong(Scaled):
    """Returns groups that cannot be used."""

    kind: ClassVar[str] = "own_wrong_groups"
    problem: str = ""

    def parameter_groups(self, adapter: nn.Module) -> Sequence[ParameterGroup]:
        weights = list(adapter.parameters())
        problems: dict[str, list[Any]] = {
            "twice": [ParameterGroup(weights), ParameterGroup(weights[:1])],
            "foreign": [ParameterGroup(nn.Linear(2, 2).parameters())],
            "names": [ParameterGroup(["weight"])],  # type: ignore[list-item]
            "as in torch": [{"params": weights, "lr": 0.1}],
        }
        return problems[self.problem]  # KeyError for any other


@dataclass(frozen=True)
class WithOptimizer(Scaled):
    """Has an adapter that stores its own optimizer."""

    kind: ClassVar[str] = "own_optimizer"

    def adapter(self, student: Outputs, teacher: Outputs, images: Targets) -> nn.Module | None:
        adapter: Any = super().adapter(student, teacher, images)
        adapter[1].updates = torch.optim.SGD(adapter[1].parameters(), lr=0.1)
        return adapter
