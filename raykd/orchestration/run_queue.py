"""The queue of a command's jobs: which job a slot does next, also after an error (training/failure.py).

A slot is the workers of one trainer (parallel_runs.py counts slots, trainers.py starts them). It requests a job, does
it, and requests the next. So a plan of many runs pays for a trainer's start once per slot, and a run starts as soon as
its teacher is trained and a slot is free. The trials of a search have no such queue: Tune starts and retries them
(tuner.py, trial.py).

Plain Python without Ray. Nothing here imports torch, because the controller of every trainer imports this module and
would wait for it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Literal

from raykd.training.failure import MAX_ATTEMPTS, Decision, give_up_reason

if TYPE_CHECKING:
    from raykd.errors import Failure
    from raykd.spec.plan import Run
    from raykd.training.hooks import EpochReport
    from raykd.training.teacher.choose import PlannedCache

# A slot that sends no heartbeat for this long is lost with its node: Ray replaces a worker in 15 s. If the slot comes
# back, the run's lock keeps it from writing a run that another slot trains by then, and it receives the next job.
LOST_AFTER_S = 45.0
PAUSE_S = 5.0  # how long a job that was put back waits at least
MAX_PAUSE_S = 60.0  # the limit of the pause, which doubles each time that another command still trains the run


class State(StrEnum):
    """A job's state: waiting -> running -> done, failed or stopped; or skipped, when a job that it needs failed."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"
    STOPPED = "stopped"


class Pause(StrEnum):
    """Why a slot put a job back. The job waits for a pause, and then for those that were never started."""

    LOCKED = "locked"  # another command has locked its run
    OUT_OF_MEMORY = "out of memory"  # on a GPU that another run shares, and may have filled
    UNREACHABLE = "unreachable"  # the worker had no answer from the queue, and saved its run


@dataclass(frozen=True)
class Job:
    """Train a run, evaluate a trained run on the test split, or fill a part of a logit cache.

    run: for a fill job the first of the cache's teachers. needs: names of the jobs that must be done before.
    cache: the logit cache that a distilled run reads, None for a live teacher. part: counted from 0.
    """

    kind: Literal["train", "evaluate", "fill"]
    run: Run
    needs: tuple[str, ...] = ()
    cache: PlannedCache | None = None
    part: int = 0

    @property
    def name(self) -> str:
        if self.kind != "fill" or self.cache is None:
            return f"{self.kind} {self.run.name}"
        embeddings = " with embeddings" if self.cache.embedding_width else ""
        # Families with the same teacher may read different caches.
        families = f" for {', '.join(sorted(self.cache.families))}" if self.cache.families else ""
        return f"{self.kind} {self.run.name}{families} {self.part + 1}/{self.cache.num_parts}{embeddings}"


@dataclass
class JobStatus:
    """The progress of a job.

    state: WAITING for a slot, for jobs that it needs, or for the end of a `pause`. reason: why it failed, was skipped,
    stopped or waits again; of a job that is done, its result. failure: the kind of the failure; None if the job has not
    failed, or if its worker died.

    pause: why a slot put it back, until a slot takes it again. paused_at: when a slot last put it back. num_locked: how
    often another command had its run locked. blames_gpu: whether another GPU may do what the worker that died could
    not. failed_on: the slot whose GPU could not do the job, so that another one tries it.

    report, first_report: of its last epoch, and of the first one in this command. times: seconds from the queue's start
    to 'started', 'first epoch', 'last epoch' and 'ended'. lines: what the worker adds to the command's log.
    """

    job: Job
    state: State = State.WAITING
    slot: int | None = None
    attempts: int = 0
    reason: str = ""
    failure: Failure | None = None
    report: EpochReport | None = None
    first_report: EpochReport | None = None
    pause: Pause | None = None
    paused_at: float = -math.inf
    num_locked: int = 0
    blames_gpu: bool = False
    failed_on: int | None = None
    times: dict[str, float] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)

    @property
    def due_at(self) -> float:
        """The time from which on a slot may take the job again. Attempts at a locked run read its files."""
        return self.paused_at + min(MAX_PAUSE_S, PAUSE_S * 2 ** min(max(0, self.num_locked - 1), 8))


def plan_jobs(
    runs: Sequence[Run],
    trained: Collection[str],
    evaluated: Collection[str],
    caches: Sequence[PlannedCache] = (),
    live: Collection[str] = (),
) -> list[Job]:
    """Return the jobs that are left of `runs`.

    trained, evaluated, live: names of the runs that are trained, are evaluated, or started with a live teacher.

    Teachers come first, then their `caches`, because other runs wait for them. Nothing is trained before every imported
    teacher is evaluated, since one that does not fit ends the command. Each run is evaluated as soon as it is trained,
    which takes seconds, so that an interrupted command has the metrics of every run that it finished.
    """
    untrained = {run.name for run in runs if run.name not in trained}
    imports = [run for run in runs if run.imported is not None and run.name in untrained]

    def training_of(*needed: Run) -> tuple[str, ...]:
        return tuple(Job("train", run).name for run in needed if run.name in untrained)

    fills = [
        Job("fill", cache.teachers[0], training_of(*cache.teachers), cache, part)
        for cache in caches
        for part in range(cache.num_parts)
    ]
    jobs = []
    for run in runs:
        readable = (c for c in caches if names_of(c.teachers) == names_of(run.teachers) and c.serves(run))
        cache = next(readable, None) if run.name not in live else None
        if run.name in untrained:
            needs = tuple(job.name for job in fills if job.cache == cache) if cache else training_of(*run.teachers)
            needed_imports = training_of(*imports) if run.imported is None else ()
            jobs.append(Job("train", run, tuple(dict.fromkeys((*needs, *needed_imports))), cache))
        if run.name not in evaluated:
            jobs.append(Job("evaluate", run, training_of(run)))
    first = [job for job in jobs if job.run.stage == "teacher"]
    return first + fills + [job for job in jobs if job.run.stage != "teacher"]


def names_of(runs: Iterable[Run]) -> tuple[str, ...]:
    """Return the runs' names, which contain the fingerprints: equal names are the same run."""
    return tuple(run.name for run in runs)


def max_concurrent(jobs: Iterable[Job]) -> int:
    """Return how many runs can train side by side, at the start or once their teachers are trained."""
    train = [job for job in jobs if job.kind == "train"]
    return max(sum(not job.needs for job in train), sum(bool(job.needs) for job in train), 1)


class RunQueue:
    """Assign jobs to slots. Earlier jobs in the list go first.

    is_complete: whether no jobs will be added by `add_final`, for which the workers would wait.
    """

    def __init__(self, jobs: list[Job], is_complete: bool = True) -> None:
        self._statuses = {job.name: JobStatus(job) for job in jobs}
        self._is_complete = is_complete
        self._is_stopping = False
        self._started = time.monotonic()
        self._last_heartbeat: dict[int, float] = {}  # time of the last heartbeat by slot
        self._warnings: set[str] = set()  # those that workers have sent

    def next_job(self, slot: int) -> Job | None:
        """Return a job for `slot`, or None if there is none for it now; `is_over` returns whether one can still come.

        A slot that requests a job while it has one has lost its worker. It receives the same job again, up to
        MAX_ATTEMPTS times.
        """
        self._last_heartbeat[slot] = time.monotonic()
        running = [s for s in self._statuses.values() if s.state is State.RUNNING]
        current = next((s for s in running if s.slot == slot), None)
        if current is not None and self._is_stopping:
            self._end(current, State.STOPPED, "its worker died; the last checkpoint is kept")
        elif current is not None and current.attempts >= MAX_ATTEMPTS:
            reason = give_up_reason(current.attempts, current.reason)
            self._fail(current, reason, current.blames_gpu)
            current = None
        if self._is_stopping:
            return None
        lost = self.lost_slots()  # they cannot restart while others use the nodes that are left
        chosen = current or self._first_ready(slot) or next((s for s in running if s.slot in lost), None)
        if chosen is None:
            return None
        chosen.state, chosen.slot, chosen.reason, chosen.blames_gpu = State.RUNNING, slot, "", False
        chosen.pause = None
        chosen.attempts += 1
        chosen.times.setdefault("started", time.monotonic() - self._started)
        return chosen.job

    def _first_ready(self, slot: int) -> JobStatus | None:
        """Return the first job that `slot` can start. Those that a slot has put back come last, after a pause."""
        now = time.monotonic()
        done = {name for name, s in self._statuses.items() if s.state is State.DONE}
        waiting = (s for s in self._statuses.values() if s.state is State.WAITING and done.issuperset(s.job.needs))
        ready = (s for s in waiting if s.due_at <= now)
        if self._has_other(slot):
            ready = (s for s in ready if s.failed_on != slot)
        return min(ready, key=lambda s: s.paused_at, default=None)

    def live_slots(self, within_s: float = LOST_AFTER_S) -> set[int]:
        """Return the slots whose last heartbeat is at most `within_s` seconds old."""
        oldest = time.monotonic() - within_s
        return {slot for slot, at in self._last_heartbeat.items() if at >= oldest}

    def lost_slots(self) -> set[int]:
        """Return the slots that have started, and whose last heartbeat is more than LOST_AFTER_S old."""
        return self._last_heartbeat.keys() - self.live_slots()

    def _has_other(self, slot: int | None) -> bool:
        """Return whether another slot than `slot` sends heartbeats."""
        return bool(self.live_slots() - {slot})

    def finish(self, slot: int, name: str, line: str = "") -> None:
        """Record that `slot` has done a job. line: its result for the command's log.

        A call from a slot that was counted as lost, and whose job another slot has by now, changes nothing. This holds
        for `carry_out` too.
        """
        if (status := self._running(slot, name)) is not None:
            self._end(status, State.DONE, line)

    def carry_out(self, slot: int, name: str, decision: Decision) -> None:
        """Do what follows from an error of `slot` in a job.

        'another process' only records the reason. The slot's next worker receives the job again.
        """
        status = self._running(slot, name)
        if status is None:
            return
        if decision.retry == "another process":
            self._note_error(status, decision)
        elif decision.retry == "later":
            pause = Pause.LOCKED if decision.failure is None else Pause.OUT_OF_MEMORY
            self._put_back(status, pause, decision.reason)
        elif decision.retry == "no":
            self._fail(status, decision.reason, decision.blames_gpu, decision.failure)
        elif self._is_stopping:
            self._end(status, State.STOPPED, decision.reason)
        else:
            self._put_back(status, Pause.UNREACHABLE, f"the queue was unreachable; {decision.reason}")

    def _running(self, slot: int, name: str) -> JobStatus | None:
        """Return the status of a job that `slot` does; None if another slot has it, or it has ended."""
        status = self._statuses[name]
        return status if status.slot == slot and status.state is State.RUNNING else None

    def _end(self, status: JobStatus, state: State, reason: str) -> None:
        status.state, status.reason = state, reason
        status.times["ended"] = time.monotonic() - self._started

    def _put_back(self, status: JobStatus, pause: Pause, reason: str) -> None:
        """Return a job to the queue as if it had not been tried."""
        self._end(status, State.WAITING, reason)
        status.slot, status.pause, status.paused_at = None, pause, time.monotonic()
        status.num_locked += pause is Pause.LOCKED
        status.attempts -= 1

    def _fail(self, status: JobStatus, reason: str, blames_gpu: bool, failure: Failure | None = None) -> None:
        """Record that a job failed. Jobs that need it are skipped, and so are those that need these.

        blames_gpu: another GPU may do the job. Then another slot tries it once: one unusable GPU among several must not
        fail every run.
        """
        if blames_gpu and status.failed_on is None and self._has_other(status.slot):
            self._end(status, State.WAITING, reason)
            status.failed_on, status.slot, status.attempts = status.slot, None, 0
            status.lines.append(f"failed on its GPU, and is tried on another one: {reason.splitlines()[0]}")
            return
        self._end(status, State.FAILED, reason)
        status.failure = failure
        self._skip_dependents(status.job.name)

    def _skip_dependents(self, name: str) -> None:
        for status in self._statuses.values():
            if name in status.job.needs and status.state is State.WAITING:
                status.state, status.reason = State.SKIPPED, f"{name} failed"
                self._skip_dependents(status.job.name)

    def _note_error(self, status: JobStatus, decision: Decision) -> None:
        """Record why a worker is about to end. The first reason is kept; later ones only report its loss."""
        if not status.reason:
            status.reason, status.blames_gpu = decision.reason, decision.blames_gpu

    def report(self, report: EpochReport) -> None:
        """Record the last epoch of a run in training."""
        status, now = self._statuses[f"train {report.run}"], time.monotonic() - self._started
        status.report, status.first_report = report, status.first_report or report
        status.times["last epoch"] = now
        status.times.setdefault("first epoch", now)

    def log(self, run: str, line: str) -> None:
        """Add a line about a run in training to the log of the command."""
        self._statuses[f"train {run}"].lines.append(line)

    def warn(self, job: str, line: str) -> None:
        """Add a warning of a job's worker to the log of the command, unless another worker has sent the same."""
        if line not in self._warnings:
            self._warnings.add(line)
            self._statuses[job].lines.append(line)

    def stop(self) -> None:
        """Assign no more jobs. Workers see this through `is_stopping`, and save their runs."""
        self._is_stopping = True

    def is_stopping(self, slot: int) -> bool:
        """Return whether `slot` must save and stop; the call is also its heartbeat."""
        self._last_heartbeat[slot] = time.monotonic()
        return self._is_stopping

    def add_final(self, jobs: list[Job]) -> None:
        """Add the jobs that depend on how all others ended, perhaps none. Workers wait for this call."""
        self._statuses |= {job.name: JobStatus(job) for job in jobs}
        self._is_complete = True

    def is_over(self) -> bool:
        """Return whether no job is left and none will be added."""
        return self.is_done() and (self._is_complete or self._is_stopping)

    def is_done(self) -> bool:
        """Return whether no job is running and none can start. While stopping, the jobs of lost slots do not count."""
        lost = self.lost_slots() if self._is_stopping else set()
        states = {s.state for s in self._statuses.values() if not (s.state is State.RUNNING and s.slot in lost)}
        return State.RUNNING not in states and (self._is_stopping or State.WAITING not in states)

    def statuses(self) -> list[JobStatus]:
        """Return the statuses of all jobs, in order."""
        return list(self._statuses.values())
