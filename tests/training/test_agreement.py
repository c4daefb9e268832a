"""Tests of when several workers agree to stop or save: every step on CPUs, by time and at most 16 steps on GPUs."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import torch
from fake_gpu import GPU
from small_runs import CPU

from raykd.training import agreement
from raykd.training.agreement import EVERY_S, MOST_STEPS, Agreement
from raykd.training.group import Group


@dataclass(frozen=True)
class Recording(Group):
    """A group whose messages go nowhere; it records them."""

    sent: list[tuple[int, ...]] = field(default_factory=list)

    def broadcast_numbers(self, *numbers: int) -> tuple[int, ...]:
        self.sent.append(numbers)
        return numbers


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The time in its only entry, which a test advances."""
    now = [100.0]
    monkeypatch.setattr(agreement.time, "monotonic", lambda: now[0])
    yield now


def steps_with_message(clock: list[float], device: torch.device, step_s: float, num_steps: int) -> list[int]:
    """Return the steps after which the first of two workers sends a message, if each takes `step_s` seconds."""
    group, found = Recording(0, 2), []
    agreed = Agreement(group, device)
    for step in range(num_steps):
        clock[0] += step_s
        before = len(group.sent)
        agreed.decide(lambda: False)
        if len(group.sent) > before:
            found.append(step)
    return found


@pytest.mark.parametrize(
    ("step_s", "interval"), [(EVERY_S / 1000, MOST_STEPS["cuda"]), (EVERY_S / 5 - 1e-6, 5), (EVERY_S * 3, 1)]
)
def test_workers_on_gpus_agree_by_time_and_at_most_every_16_steps(
    step_s: float, interval: int, clock: list[float]
) -> None:
    found = steps_with_message(clock, GPU, step_s, 60)
    assert found == [0, *range(1, 60, interval)]


def test_workers_on_cpus_agree_after_every_step(clock: list[float]) -> None:
    assert steps_with_message(clock, CPU, 1e-4, 20) == [*range(20)]


def test_a_worker_alone_decides_after_every_step(clock: list[float]) -> None:
    decided = Agreement(Group(), GPU)
    answers = iter([False] * 30 + [True])
    assert [decided.decide(lambda: next(answers), lambda: False) for _ in range(31)] == [(False, False)] * 30 + [
        (True, False)
    ]


def test_other_workers_follow_the_interval_and_the_decisions_of_the_first(clock: list[float]) -> None:
    """The second worker's clock and flags differ, and it acts after the same step."""

    class Second(Group):
        def broadcast_numbers(self, *numbers: int) -> tuple[int, ...]:
            return messages.pop(0)

    first = Recording(0, 2)
    leader, stops = Agreement(first, GPU), []
    for step in range(40):
        clock[0] += 1e-3
        stops += [step] * leader.decide(lambda step=step: step >= 20)[0]
    messages, follower = [*first.sent], Agreement(Second(1, 2), GPU)
    followed = []
    for step in range(40):
        clock[0] += 10.0
        followed += [step] * follower.decide(lambda: False)[0]
    assert followed == stops == [33]
