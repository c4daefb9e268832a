"""Which job a worker does next: the plan's graph, handed out to slots as they come free. Plain Python, no Ray.

A slot is one trainer's workers; it asks for a job, does it, and asks again. So a plan of many runs pays for a
trainer's start once per slot, and a run starts the moment its teacher is there and a slot is free.

Nothing here imports torch: every trainer's controller imports this module, and would wait for it.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from raykd.spec.plan import Run
    from raykd.training.hooks import EpochReport
    from raykd.training.teacher.choose import PlannedCache

MAX_ATTEMPTS = 3  # a worker that dies is replaced; a run that kills every worker is not given a fourth
# A slot that is silent for so long is lost with its node: Ray replaces a worker in 15 s. One that comes back after
# all finds its run with another, which the run's lock keeps from both writing it, and takes the next.
LOST_AFTER_S = 45.0
HELD_RETRY_S = 5.0  # how often a run is tried that another command is at


class State(StrEnum):
    """Of a job: waiting -> running -> done, failed or stopped; or skipped, when what it needs failed."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"
    STOPPED = "stopped"


@dataclass(frozen=True)
class Job:
    """Train a run, evaluate a trained one on the test set, or fill a part of a logit cache.

    run: of a fill job the first of the cache's teachers.

    needs: names of the jobs that come before. cache: what a distilled run reads its teacher from; None for live.
    """

    kind: Literal["train", "evaluate", "fill"]
    run: Run
    needs: tuple[str, ...] = ()
    cache: PlannedCache | None = None
    part: int = 0

    @property
    def name(self) -> str:
        which = f" {self.part + 1}/{self.cache.num_parts}" if self.kind == "fill" and self.cache else ""
        more = " with embeddings" if which and self.cache and self.cache.embedding_width else ""
        return f"{self.kind} {self.run.name}{which}{more}"


@dataclass
class JobStatus:
    """What is known of a job: `report` is its last epoch's; `held_at` says when another command was last at it.

    times: seconds from the queue's start to 'began', 'first epoch', 'last epoch' and 'ended'.
    """

    job: Job
    state: State = State.WAITING
    slot: int | None = None
    attempts: int = 0
    reason: str = ""
    report: EpochReport | None = None
    first_report: EpochReport | None = None
    held_at: float | None = None
    times: dict[str, float] = field(default_factory=dict)


def jobs_of(
    runs: Iterable[Run],
    trained: set[str],
    evaluated: set[str],
    caches: Iterable[PlannedCache] = (),
    live: Collection[str] = (),
) -> list[Job]:
    """The jobs left of `runs`, given the names of those that are trained, of those evaluated on test, and of those
    that read no logit cache.

    Teachers come first, then their `caches`: they hold others up, of several families at once. Nothing is trained
    before every imported teacher was evaluated, since one that does not fit ends the command. A run is evaluated, in
    seconds, as soon as it is trained, so that a command which is cut off has figures of all that it finished.
    """
    all_caches = [(_names(cache.teachers), cache) for cache in caches]
    left = {run.name for run in runs if run.name not in trained}
    imports = [run for run in runs if run.imported is not None and run.name in left]

    def after(*before: Run) -> tuple[str, ...]:
        return tuple(Job("train", run).name for run in before if run.name in left)

    fills = [
        Job("fill", cache.teachers[0], after(*cache.teachers), cache, part)
        for _, cache in all_caches
        for part in range(cache.num_parts)
    ]
    jobs = []
    for run in runs:
        taught_by = _names(run.teachers)
        serving = (cache for teachers, cache in all_caches if teachers == taught_by and cache.serves(run))
        cache = next(serving, None) if run.name not in live else None
        if run.name in left:
            needs = tuple(job.name for job in fills if job.cache == cache) if cache else after(*run.teachers)
            waits = after(*imports) if run.imported is None else ()
            jobs.append(Job("train", run, tuple(dict.fromkeys((*needs, *waits))), cache))
        if run.name not in evaluated:
            jobs.append(Job("evaluate", run, after(run)))
    first = [job for job in jobs if job.run.stage == "teacher"]
    return first + fills + [job for job in jobs if job.run.stage != "teacher"]


def _names(runs: Iterable[Run]) -> tuple[str, ...]:
    return tuple(run.name for run in runs)


def max_concurrent(jobs: Iterable[Job]) -> int:
    """How many runs can train side by side, at the start or once their teachers are there."""
    train = [job for job in jobs if job.kind == "train"]
    return max(sum(not job.needs for job in train), sum(bool(job.needs) for job in train), 1)


class RunQueue:
    """Gives each slot its next job. Earlier jobs in the list go first.

    is_whole: no others come with `add_last`, for which workers would wait.
    """

    def __init__(self, jobs: list[Job], is_whole: bool = True) -> None:
        self._statuses = {job.name: JobStatus(job) for job in jobs}
        self._is_whole = is_whole
        self._stopping = False
        self._began = time.monotonic()
        self._last_heartbeat: dict[int, float] = {}  # when each slot last asked for anything

    def next(self, slot: int) -> Job | None:
        """A job for `slot`, or None when there is none for it now; `is_over` tells whether one can still come.

        A slot that asks while it has a job has lost its worker: it is given the same job, up to MAX_ATTEMPTS.
        """
        self._last_heartbeat[slot] = time.monotonic()
        mine = next((s for s in self._statuses.values() if s.slot == slot and s.state is State.RUNNING), None)
        if mine is not None and self._stopping:
            self.finish(slot, mine.job.name, State.STOPPED, "its worker died; the last checkpoint is kept")
        elif mine is not None and mine.attempts >= MAX_ATTEMPTS:
            reason = f"its worker died {mine.attempts} times; out of memory, or see the Ray worker's log"
            reason += f"; one of several said: {mine.reason}" if mine.reason else ""
            self.finish(slot, mine.job.name, State.FAILED, reason)
            mine = None
        if self._stopping:
            return None
        chosen = mine or self._ready() or self._lost()
        if chosen is None:
            return None
        chosen.state, chosen.slot, chosen.reason = State.RUNNING, slot, ""
        chosen.attempts += 1
        chosen.times.setdefault("began", time.monotonic() - self._began)
        return chosen.job

    def _ready(self) -> JobStatus | None:
        """The first that can start; those that another command is at come last, and not at once again."""
        due = time.monotonic() - HELD_RETRY_S
        waiting = (s for s in self._statuses.values() if s.state is State.WAITING and self._has_all(s))
        ready = (s for s in waiting if s.held_at is None or s.held_at <= due)
        return min(ready, key=lambda s: s.held_at or 0.0, default=None)

    def _lost(self) -> JobStatus | None:
        """One whose slot went with its node, and will not come back while the others hold what is left."""
        lost = self.lost_slots()
        return next((s for s in self._statuses.values() if s.state is State.RUNNING and s.slot in lost), None)

    def lost_slots(self) -> set[int]:
        """Those that were there and have been silent for LOST_AFTER_S."""
        silent = time.monotonic() - LOST_AFTER_S
        return {slot for slot, at in self._last_heartbeat.items() if at < silent}

    def _has_all(self, status: JobStatus) -> bool:
        return all(self._statuses[name].state is State.DONE for name in status.job.needs)

    def finish(self, slot: int, name: str, state: State, reason: str = "") -> None:
        """`slot` is through with a job; what needs a failed one is skipped, and what needs that.

        WAITING gives it back untouched, since another command is at it. A slot that was taken for lost, and
        whose job is another's by now, changes nothing.
        """
        status = self._statuses[name]
        if status.slot != slot or status.state is not State.RUNNING:
            return
        status.state, status.reason = state, reason
        status.times["ended"] = time.monotonic() - self._began
        if state is State.WAITING:
            status.slot, status.held_at = None, time.monotonic()
            status.attempts -= 1
        if state is State.FAILED:
            self._skip_after(name)

    def _skip_after(self, name: str) -> None:
        for status in self._statuses.values():
            if name in status.job.needs and status.state is State.WAITING:
                status.state, status.reason = State.SKIPPED, f"{name} failed"
                self._skip_after(status.job.name)

    def note(self, slot: int, name: str, reason: str) -> None:
        """Why a worker of `slot` is about to die: of the first that says it, since the others only miss that one."""
        status = self._statuses[name]
        if status.slot == slot and status.state is State.RUNNING:
            status.reason = status.reason or reason

    def report(self, report: EpochReport) -> None:
        """The last epoch of a run in training."""
        status = self._statuses[f"train {report.run}"]
        status.report = report
        status.first_report = status.first_report or report
        status.times.setdefault("first epoch", time.monotonic() - self._began)
        status.times["last epoch"] = time.monotonic() - self._began

    def stop(self) -> None:
        """Hand out nothing more; workers see it through `is_stopping` and save what they are at."""
        self._stopping = True

    def is_stopping(self, slot: int) -> bool:
        """Whether `slot` is to save and stop; asking shows that it is alive."""
        self._last_heartbeat[slot] = time.monotonic()
        return self._stopping

    def add_last(self, jobs: list[Job]) -> None:
        """Jobs that were not known before all others had ended; maybe none. Workers wait for this."""
        self._statuses |= {job.name: JobStatus(job) for job in jobs}
        self._is_whole = True

    def is_over(self) -> bool:
        """Nothing is left, and nothing will be added."""
        return self.is_done() and (self._is_whole or self._stopping)

    def is_done(self) -> bool:
        """Nothing is running, and nothing that waits can start. Nobody will stop what a lost slot was at."""
        gone = self.lost_slots() if self._stopping else set()
        states = {s.state for s in self._statuses.values() if not (s.state is State.RUNNING and s.slot in gone)}
        return State.RUNNING not in states and (self._stopping or State.WAITING not in states)

    def statuses(self) -> list[JobStatus]:
        """All jobs, in order."""
        return list(self._statuses.values())
