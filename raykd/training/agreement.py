"""The steps at which the workers of a run agree whether to stop, and whether to save a checkpoint.

One worker decides after each step. Several workers must act after the same step, so the first one sends its decisions.
That message takes longer than launching a step on a GPU. Workers on GPUs therefore exchange it only once per
MOST_STEPS steps, or EVERY_S seconds if the steps are slow. The message also has the number of steps until the next one.
"""

import time
from collections.abc import Callable

import torch

from raykd.training.group import Group

MOST_STEPS = {"cpu": 1, "cuda": 16}  # between two messages; steps on a CPU take longer than a message
EVERY_S = 0.5


class Agreement:
    """The decisions of the first worker of `group`, which all workers receive after the same steps."""

    def __init__(self, group: Group, device: torch.device) -> None:
        self._group, self._most_steps = group, MOST_STEPS[device.type] if group.size > 1 else 1
        self._interval = self._steps_left = 1  # the speed is unknown until the second message
        self._exchanged: float | None = None

    def decide(self, *decisions: Callable[[], bool]) -> tuple[bool, ...]:
        """Return the first worker's answer to each of `decisions`; all false between two messages.

        All workers call this once after each step.
        """
        self._steps_left -= 1
        if self._steps_left:
            return (False,) * len(decisions)
        flags = [decision() for decision in decisions]
        self._interval, *agreed = self._group.broadcast_numbers(self._next_interval(), *flags)
        self._steps_left = self._interval
        return tuple(map(bool, agreed))

    def _next_interval(self) -> int:
        """Return the number of steps until the next message, from the time since the last one."""
        before, self._exchanged = self._exchanged, time.monotonic()
        if self._most_steps == 1 or before is None:
            return 1
        step_s = max((self._exchanged - before) / self._interval, 1e-9)
        return min(max(int(EVERY_S / step_s), 1), self._most_steps)
