"""Run a plan's jobs on Ray: one TorchTrainer per slot, all with jobs from one queue."""

import pickle
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from raykd.errors import Interrupted, RunFailed
from raykd.orchestration.controllers import Controllers, Register, failure_of
from raykd.orchestration.options import Options
from raykd.orchestration.parallel_runs import Slots, lost_nodes_reason, plan_slots
from raykd.orchestration.process_group import GroupConfig
from raykd.orchestration.progress import Progress
from raykd.orchestration.run_queue import JobStatus, RunQueue, State
from raykd.orchestration.runs_left import RunsLeft
from raykd.orchestration.session import actor_on_driver, alive_nodes
from raykd.orchestration.slot_watch import SlotWatch
from raykd.orchestration.stop_signals import delayed_signals
from raykd.orchestration.worker import WorkerConfig, work
from raykd.spec.experiment import Workers
from raykd.training.failure import max_failures_of_slot, one_line_reason
from raykd.training.group import STUCK

POLL_S = 0.25
POLL_FACTOR = 10  # of a poll's CPU time, until the next one: the statuses of 2,000 jobs take 0.1 s
_ERROR_LINE = re.compile(r"[\w.]+(Error|Exception): ")  # as the last line of a traceback
END_S = 45.0  # how long to wait for the trainers of live slots to end, which takes them seconds
STOPPED_END_S = 5.0  # how long after a stop, when all runs are saved
KILL_S = 20.0  # a controller that was just requested takes seconds to start
KILL_POLL_S = 1.0
IDLE = timedelta(days=30)  # a worker that a batch leaves out waits for as long as the run takes


def slots_of(workers: Workers, num_jobs: int, max_concurrent: int) -> Slots:
    """Divide the nodes that are alive into slots; see `plan_slots`."""
    return plan_slots(alive_nodes(), workers, num_jobs, max_concurrent)


def run_jobs(
    left: RunsLeft, slots: Slots, options: Options, progress: Progress, should_stop: Callable[[], bool]
) -> list[JobStatus]:
    """Do the jobs left on `slots`, and return how each ended. `progress` shows their statuses a few times a second.

    Raises Interrupted when nodes are lost and the others have no room for one run.
    """
    jobs, is_complete = left.jobs(slots), not left.has_final_jobs
    queue, storage = actor_on_driver(RunQueue, jobs, is_complete), options.new_ray_folder()
    trainers = _Trainers(storage / "controllers", slots.count)
    try:
        trainers.start(lambda slot, callback: _trainer(queue, slot, slots, options, storage, len(jobs), callback))
        statuses = _wait(queue, left, slots, trainers, progress, should_stop)
        failures = dict(trainers.errors)  # without the errors of the trainers that are killed below
    except RayError as error:
        raise RunFailed(f"the job queue is lost ({_cause_of(error)}); rerun the same command to resume") from error
    finally:
        trainers.end()
        shutil.rmtree(storage, ignore_errors=True)  # it holds only pointers into the runs' folders
    progress.show(statuses)
    _fail_unserved(statuses, failures)
    return statuses


def _cause_of(error: RayError) -> str:
    """Return the last error in Ray's text of several lines, such as one that unpickling a network raised, or line 1."""
    lines = str(error).splitlines() or [type(error).__name__]
    return next((line for line in reversed(lines) if _ERROR_LINE.match(line)), lines[0])


class _Trainers:
    """The trainers of all slots, each in a thread that waits for its controller.

    errors: why trainers failed, by slot.
    """

    def __init__(self, folder: Path, num_slots: int) -> None:
        self.controllers = Controllers(folder, num_slots)
        self.errors: dict[int, BaseException] = {}
        self._threads: list[threading.Thread] = []
        self._num_slots = num_slots

    def start(self, make_trainer: Callable[[int, Register], TorchTrainer]) -> None:
        """Start a trainer for each slot."""

        def fit(trainer: TorchTrainer, slot: int) -> None:
            try:
                trainer.fit()
            except Exception as error:  # noqa: BLE001 - reported by _fail_unserved, with the jobs that it affects
                self.errors.setdefault(slot, error)

        trainers = [make_trainer(slot, self.controllers.register(slot)) for slot in range(self._num_slots)]
        self._threads = [
            threading.Thread(target=fit, args=(trainer, slot), daemon=True, name=f"raykd-slot-{slot}")
            for slot, trainer in enumerate(trainers)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def ended(self) -> set[int]:
        """The slots whose trainers have ended."""
        return {slot for slot, thread in enumerate(self._threads) if not thread.is_alive()}

    @property
    def have_ended(self) -> bool:
        """Whether all trainers have ended."""
        return len(self.ended) == len(self._threads)

    def join(self, slots: Iterable[int], timeout_s: float) -> None:
        """Wait until the trainers of `slots` have ended, for at most `timeout_s`."""
        end = time.monotonic() + timeout_s
        for slot in slots:
            self._threads[slot].join(max(0.0, end - time.monotonic()))

    def give_up(self, slot: int, reason: str) -> None:
        """Kill the controller of `slot`."""
        self.errors.setdefault(slot, RunFailed(reason))
        self.controllers.kill([slot])

    def end(self) -> None:
        """Kill the controllers for which threads wait, until all have ended or KILL_S have passed; free what they held.

        A controller that is still starting has no process to kill yet, so this tries repeatedly. If Ray were shut down
        under a waiting thread, this process would end with exit code 1 and a message of Ray, so no signal ends this
        early.
        """
        deadline, every_slot = time.monotonic() + KILL_S, range(self._num_slots)
        with delayed_signals():
            are_killed = not self.have_ended
            while not self.have_ended and time.monotonic() < deadline:
                self.controllers.kill(every_slot)
                self.join(every_slot, KILL_POLL_S)
            if are_killed or self.errors:
                with suppress(RayError):  # without an answer from Ray nothing is left to free
                    self.controllers.remove_abandoned_groups(ended=every_slot)


def _wait(
    queue: Any, left: RunsLeft, slots: Slots, trainers: _Trainers, progress: Progress, should_stop: Callable[[], bool]
) -> list[JobStatus]:
    """Wait until all jobs or all trainers have ended, or, after `should_stop`, until all running jobs are saved."""
    is_stopping, has_final_jobs = False, left.has_final_jobs
    watch = SlotWatch(queue, slots, trainers.controllers, progress.log)
    while not trainers.have_ended:
        began = time.thread_time()
        progress.show(ray.get(queue.statuses.remote()))
        if should_stop() and not is_stopping:
            ray.get(queue.stop.remote())
            is_stopping = True
        elif has_final_jobs and ray.get(queue.is_done.remote()):
            ray.get(queue.add_final.remote(left.final_jobs(ray.get(queue.statuses.remote()))))
            has_final_jobs = False
        if ray.get(queue.is_over.remote()):
            break
        for slot, reason in watch.check(trainers.ended).items():
            trainers.give_up(slot, reason)
        are_lost = ray.get(queue.lost_slots.remote()) and not ray.get(queue.live_slots.remote())
        if are_lost and (reason := lost_nodes_reason(alive_nodes(), slots, "run", slots.min_workers)):
            raise Interrupted(reason)
        time.sleep(max(POLL_S, POLL_FACTOR * (time.thread_time() - began)))
    # A slot without heartbeats has nothing to save, and its trainer may wait for resources without end.
    trainers.join(ray.get(queue.live_slots.remote()), STOPPED_END_S if is_stopping else END_S)
    return ray.get(queue.statuses.remote())


def _trainer(
    queue: Any, slot: int, slots: Slots, options: Options, storage: Path, num_jobs: int, callback: Register
) -> TorchTrainer:
    """Return a trainer whose workers do the queue's jobs. When one worker dies, Ray replaces all workers of the slot.

    The first replacement requests a job, and the queue returns the job that the slot had.
    """
    pickled = pickle.dumps(options.with_absolute_paths())
    worker = WorkerConfig(queue, slot, slots.cpus, slots.gpus, slots.may_shrink, pickled)
    return TorchTrainer(
        work,
        train_loop_config=vars(worker),  # plain values, for which the controller need not import torch
        torch_config=GroupConfig.of_workers(slots.gpus, storage, IDLE if slots.may_shrink else STUCK),
        scaling_config=ScalingConfig(
            num_workers=(slots.min_workers, slots.workers) if slots.may_shrink else slots.workers,
            use_gpu=slots.gpus > 0,
            elastic_resize_monitor_interval_s=float("inf"),  # shrinks after a loss; growing would kill the training
            resources_per_worker=slots.resources_of_worker,
        ),
        run_config=RunConfig(
            name=f"slot{slot}",
            storage_path=str(storage),
            failure_config=FailureConfig(max_failures=max_failures_of_slot(num_jobs)),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
            callbacks=[callback],  # pyright: ignore[reportArgumentType] - Train also calls those that are no UserCallback
        ),
    )


def _fail_unserved(statuses: list[JobStatus], errors: dict[int, BaseException]) -> None:
    """Mark the jobs that are left because trainers failed as failed, with the trainer's error as the reason."""
    for status in statuses:
        if errors and status.state in (State.WAITING, State.RUNNING):
            error = errors.get(status.slot if status.slot is not None else -1, next(iter(errors.values())))
            status.state, status.reason = State.FAILED, reason_of_trainer(error)


def reason_of_trainer(error: BaseException) -> str:
    """Return in one line why a trainer failed. error: of its `fit`."""
    return f"its trainer failed: {one_line_reason(failure_of(error))}"
