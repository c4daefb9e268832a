"""The connection between a worker and the driver: jobs, how they ended, and whether to stop.

Whether to stop is polled by a thread, so that a training step never waits for an answer over the network.
"""

import threading
from collections.abc import Callable
from typing import Any, Self

import ray
from ray.exceptions import RayError

from raykd.orchestration.run_queue import Job
from raykd.training.failure import Decision

POLL_S = 0.5
ANSWER_S = 20.0  # without an answer for this long, the driver counts as unreachable


class StopPoller:
    """A context manager with a thread that polls whether to stop.

    A worker that receives no answer saves its run and stops, well before LOST_AFTER_S: either its node has lost the
    connection, and another worker will resume its run, or the command has ended, and Ray will end the worker.
    """

    def __init__(self, poll: Callable[[], Any]) -> None:
        """poll: returns Ray's reference to an actor's answer, which is true to stop."""
        self._poll = poll
        self._has_ended, self._stop, self._unreachable = threading.Event(), threading.Event(), threading.Event()

    def __enter__(self) -> Self:
        threading.Thread(target=self._poll_until_stop, daemon=True, name="raykd-stop").start()
        return self

    def __exit__(self, *error: object) -> None:
        self._has_ended.set()

    @property
    def is_stopping(self) -> bool:
        """Whether the command has requested a stop."""
        return self._stop.is_set()

    def should_stop(self) -> bool:
        """Return whether to save and stop: the driver has requested it, or is unreachable at present."""
        return self.is_stopping or self._unreachable.is_set()

    def _poll_until_stop(self) -> None:
        while not (self.is_stopping or self._has_ended.wait(POLL_S)):
            try:
                if ray.get(self._poll(), timeout=ANSWER_S):
                    self._stop.set()
                self._unreachable.clear()
            except RayError:  # no answer in time, or no such actor any more
                self._unreachable.set()


class QueueLink(StopPoller):
    """The queue, as the workers of one slot use it. The first worker polls, which is also the slot's heartbeat."""

    def __init__(self, queue: Any, slot: int) -> None:
        """queue: the handle of the RunQueue's actor."""
        super().__init__(lambda: queue.is_stopping.remote(slot))
        self._queue, self._slot = queue, slot
        self._out_of_memory: set[str] = set()  # names of jobs

    def next_job(self) -> tuple[Job | None, bool]:
        """Return the next job, or None if there is none now; and whether no more jobs will come."""
        job: Job | None = ray.get(self._queue.next_job.remote(self._slot))
        return job, job is None and (self.is_stopping or ray.get(self._queue.is_over.remote()))

    def finish(self, job: Job, line: str) -> None:
        """Report that a job is done. line: its result for the command's log, or ''."""
        ray.get(self._queue.finish.remote(self._slot, job.name, line))

    def carry_out(self, job: Job, decision: Decision) -> None:
        """Report what follows from an error in a job."""
        if decision.failure == "out of memory" and decision.retry == "later":
            self._out_of_memory.add(job.name)
        ray.get(self._queue.carry_out.remote(self._slot, job.name, decision))

    def was_out_of_memory(self, job: Job) -> bool:
        """Return whether a worker of this process was out of memory in this job, which it then put back."""
        return job.name in self._out_of_memory
