"""Watch over the slots whose workers do not run: log what they wait for, and repair starts that Ray left unfinished."""

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from math import inf
from typing import Any

import ray

from raykd.orchestration.controllers import Controllers, Reservation
from raykd.orchestration.parallel_runs import Slots, free_resources

CHECK_S = 5.0
WAIT_LOG_S = 60.0  # workers start within 20 s if nothing else uses their CPUs and GPUs
WAIT_LOG_EVERY_S = 600.0
MAX_FAILED_STARTS = 5  # in a row; Ray itself would start the workers of a slot again and again


class SlotWatch:
    """Checks the slots every CHECK_S. queue: the RunQueue's actor. log: prints a line."""

    def __init__(self, queue: Any, slots: Slots, controllers: Controllers, log: Callable[[str], None]) -> None:
        self._queue, self._slots, self._controllers, self._log = queue, slots, controllers, log
        self._checked = time.monotonic()
        self._log_at = self._checked + WAIT_LOG_S
        self._failed_starts: Counter[int] = Counter()

    def check(self, ended: Collection[int]) -> dict[int, str]:
        """Repair and log if it is time. Return why slots cannot start; the caller must give them up.

        ended: the slots whose trainers have ended.
        """
        now = time.monotonic()
        if now - self._checked < CHECK_S:
            return {}
        self._checked = now
        live = ray.get(self._queue.live_slots.remote(2 * CHECK_S))
        for slot in live:
            self._failed_starts.pop(slot, None)
        if len(live) == self._slots.count:
            return {}
        self._failed_starts.update(self._controllers.remove_abandoned_groups(ended))
        if now >= self._log_at:
            self._log_at = now + WAIT_LOG_EVERY_S
            self._log_waiting(ended)
        return {
            slot: f"its workers died {number} times while they started; out of memory, or see the Ray workers' logs"
            for slot, number in self._failed_starts.items()
            if number >= MAX_FAILED_STARTS and slot not in ended
        }

    def _log_waiting(self, ended: Collection[int]) -> None:
        """Log how many slots have not started yet, and what they wait for."""
        started = {*ray.get(self._queue.live_slots.remote(inf)), *ended}
        states = [state for slot, state in enumerate(self._controllers.reservations()) if slot not in started]
        if states:
            self._log(waiting_line(states, self._slots, ray.available_resources(), ray.cluster_resources()))


def waiting_line(
    states: Sequence[Reservation], slots: Slots, free: Mapping[str, float], total: Mapping[str, float]
) -> str:
    """Return the line about slots that have not started.

    states: of the resources of these slots. free, total: the resources of the Ray cluster.
    """
    waiting = [state for state in states if state is not Reservation.HELD]
    num_runs = len(waiting or states)
    runs = f"{num_runs} of {slots.count} runs side by side" if slots.count > 1 else "the run"
    verb = "wait" if num_runs > 1 else "waits"
    if not waiting:
        return f"{runs} {verb} for workers that are still starting; if it takes minutes, see the Ray workers' logs"
    unused = free_resources(slots, free, total)
    return f"{runs} {verb} for {slots.resources_of_run}; free on this Ray cluster: {unused}"
