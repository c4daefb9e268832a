"""Memories in a custom method's adapter: each is found at any depth, filled after each pass, and checked before."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from documented_methods import documented_method
from small_runs import CPU, digits, recipe, run_of, teacher_of
from torch import Tensor, nn

import raykd
from raykd.errors import ConfigError
from raykd.methods import CRD, Memory, Method
from raykd.methods.method import Need
from raykd.outputs import Outputs, Targets
from raykd.training.compute import choose_compute
from raykd.training.network_checks import NetworkChecks
from raykd.training.objective import memories_of
from raykd.training.training_step import TrainState, make_train_state


class Count(Memory):
    """Counts the passes of training."""

    passes: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("passes", torch.zeros((), dtype=torch.int64))

    def remember(self, gather: Callable[[Tensor], Tensor]) -> None:
        self.passes += 1


class Broken(Memory):
    """Requires an output that no pass stores."""

    def remember(self, gather: Callable[[Tensor], Tensor]) -> None:
        gather(self.last)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Counts(Method):
    """Has a memory in a list, two levels below the adapter, and one that is the adapter's child."""

    kind: ClassVar[str] = "own_counts"
    needs: ClassVar[frozenset[Need]] = frozenset({"logits"})

    def weights(self, epoch: int) -> dict[str, float]:
        return {"ce": 1.0, "gap": 1.0}

    def adapter(self, student: Outputs, teacher: Outputs, images: Targets) -> nn.Module | None:
        return nn.ModuleDict({"parts": nn.ModuleList([nn.Linear(10, 10), Count()]), "other": Count()})

    def terms(
        self, student: Outputs, teacher: Outputs, targets: Targets, adapter: nn.Module | None
    ) -> dict[str, Tensor]:
        parts: Any = adapter["parts"]  # type: ignore[index]
        return {"gap": (parts[0](student.logits) - teacher.logits).abs().mean()}


@dataclass(frozen=True)
class CountsBroken(Counts):
    """Has a memory that fails."""

    kind: ClassVar[str] = "own_counts_broken"

    def adapter(self, student: Outputs, teacher: Outputs, images: Targets) -> nn.Module | None:
        return nn.ModuleDict({"parts": nn.ModuleList([nn.Linear(10, 10)]), "memory": Broken()})


def train_steps(method: Method, count: int, passes: int = 1) -> TrainState:
    run = run_of("distilled", method=method, student=recipe(gradient_accumulation=passes))
    training = make_train_state(run, digits(), choose_compute(CPU, "fp32"), teacher_of(run))
    for _, batch in zip(range(count), training.loader.epoch(0), strict=False):
        training.step(batch, run.method.weights(0))
    return training


@pytest.mark.parametrize("passes", [1, 2])
def test_every_memory_of_an_adapter_is_called_after_each_pass(passes: int) -> None:
    training = train_steps(Counts(), 3, passes)
    memories = memories_of(training.objective.adapter)
    assert [memory.passes.item() for memory in memories if isinstance(memory, Count)] == [3 * passes] * 2


def test_a_memory_that_is_the_adapter_is_found_too() -> None:
    training = train_steps(CRD(negatives=4, dimensions=4), 1)
    assert memories_of(training.objective.adapter) == [training.objective.adapter] and memories_of(None) == []


def test_the_documented_queue_holds_the_last_images_of_the_teacher_newest_first() -> None:
    training = train_steps(documented_method("QueueContrast", size=120), 3)
    adapter = training.objective.adapter
    assert isinstance(adapter, nn.ModuleDict) and isinstance(queue := adapter["queue"], raykd.Memory)
    batches = [batch for _, batch in zip(range(3), training.loader.epoch(0), strict=False)]
    embeddings = []
    for batch in reversed(batches):
        outputs = training.teacher(batch)
        assert outputs is not None and outputs.embedding is not None
        embeddings.append(F.normalize(outputs.embedding))
    assert torch.equal(queue.get_buffer("vectors"), torch.cat(embeddings)[:120])


def test_a_memory_that_fails_is_refused_before_training() -> None:
    words = (
        r"^method = CountsBroken: remember\(\) of Broken in its adapter fails at line \d+ with AttributeError: .*last"
    )
    with pytest.raises(ConfigError, match=words):
        NetworkChecks(digits()).require_method_fits(run_of("distilled", method=CountsBroken()))
