"""A word from the command to its trials that they save and stop, on whichever node they are.

A slot's worker and the queue: jobs, how they ended, and whether to stop.
"""

import threading
from types import TracebackType
from typing import Any, Self

import ray
from ray.exceptions import RayError

from raykd.orchestration.run_queue import Job, State

ASK_EVERY_S = 0.5


class StopFlag:
    """The command's side, an actor of no CPUs beside it."""

    def __init__(self) -> None:
        self._is_set = False

    def set(self) -> None:
        self._is_set = True

    def is_set(self) -> bool:
        return self._is_set


class StopLink:
    """A trial's side: a thread asks, so that no step waits for the answer."""

    def __init__(self, flag: Any) -> None:
        self._flag = flag
        self._ended, self._stopping = threading.Event(), threading.Event()

    def __enter__(self) -> Self:
        threading.Thread(target=self._ask, daemon=True, name="raykd-stop").start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()

    def should_stop(self) -> bool:
        return self._stopping.is_set()

    def _ask(self) -> None:
        while not self._ended.wait(ASK_EVERY_S):
            try:
                if ray.get(self._flag.is_set.remote(), timeout=ASK_EVERY_S * 20):
                    self._stopping.set()
                    return
            except RayError:  # the command is gone, and Ray will end this process
                self._stopping.set()
                return


ASK_EVERY_S = 0.5
ANSWER_S = 20.0  # without an answer for so long, the queue cannot be reached


class QueueLink:
    """Whether to stop is asked by a thread, so that a step never waits for the answer.

    A worker that gets no answer is on a node that was cut off, and its run will be given to another: it saves and
    stops, well before LOST_AFTER_S. Where the answer comes after all, it asks for a job again.
    """

    def __init__(self, queue: Any, slot: int) -> None:
        self._queue, self._slot = queue, slot
        self.stopping = threading.Event()
        self.lost = threading.Event()

    def start(self) -> None:
        """Ask from now on, as the slot's first worker: that is how the queue knows that the slot is alive."""
        threading.Thread(target=self._ask, daemon=True, name="raykd-stop").start()

    def next(self) -> tuple[Job | None, bool]:
        """The next job, if there is one now; and whether there will be no more."""
        job: Job | None = ray.get(self._queue.next.remote(self._slot))
        return job, job is None and (self.stopping.is_set() or ray.get(self._queue.is_over.remote()))

    def finish(self, job: Job, state: State, reason: str) -> None:
        """A job at its end, or at a stop that the queue wanted, or not."""
        if state is State.STOPPED and not self.stopping.is_set():
            state, reason = State.WAITING, f"lost touch with the queue; {reason}"
        ray.get(self._queue.finish.remote(self._slot, job.name, state, reason))

    def note(self, job: Job, reason: str) -> None:
        """Why this worker will be gone."""
        ray.get(self._queue.note.remote(self._slot, job.name, reason))

    def should_stop(self) -> bool:
        return self.stopping.is_set() or self.lost.is_set()

    def _ask(self) -> None:
        while not self.stopping.wait(ASK_EVERY_S):
            try:
                if ray.get(self._queue.is_stopping.remote(self._slot), timeout=ANSWER_S):
                    self.stopping.set()
                self.lost.clear()
            except RayError:  # no answer in time, or nobody there
                self.lost.set()
