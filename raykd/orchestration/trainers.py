"""The plan on Ray: one TorchTrainer a slot, all fed from one queue."""

import os
import shutil
import signal
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from ray.util.state import list_actors

from raykd.errors import Interrupted, RunFailed, plural
from raykd.orchestration.process_group import GroupConfig
from raykd.orchestration.run_queue import MAX_ATTEMPTS, Job, JobStatus, RunQueue, State
from raykd.orchestration.slots import Slots, plan_slots, room
from raykd.orchestration.worker import WorkerConfig, work
from raykd.spec.experiment import Workers
from raykd.training.group import STUCK

POLL_S = 0.25
# How long to wait for trainers to end: one that is still starting takes 5 to 20 s to find that nothing is left. One
# that waits for a node that is gone never ends by itself.
END_S = 45.0
KILL_S = 10.0
IDLE_S = 30 * 86_400  # a worker that a batch leaves out waits for as long as the run takes


def slots_of(workers: Workers, num_jobs: int, max_concurrent: int) -> Slots:
    """How the nodes that are up are shared out; see `plan_slots`."""
    return plan_slots(_nodes(), workers, num_jobs, max_concurrent)


def _nodes() -> list[dict[str, float]]:
    """Resources of those that are alive."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def run_jobs(
    jobs: list[Job],
    slots: Slots,
    results: Path,
    data_folder: Path,
    watch: Callable[[list[JobStatus]], None],
    should_stop: Callable[[], bool],
    then: Callable[[Sequence[JobStatus]], list[Job]] | None = None,
) -> list[JobStatus]:
    """Do `jobs` on `slots`; `watch` sees their statuses a few times a second. Returns how each ended.

    then: called with how all jobs ended; returns the jobs to do after them.

    Raises Interrupted when nodes are lost and the others have no room for one run.
    """
    # Where the driver is: lost with another node, it would take every run with it.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    queue: Any = ray.remote(RunQueue).options(num_cpus=0, scheduling_strategy=here).remote(jobs, is_whole=then is None)
    # A folder of this command's own: a trainer with an earlier one's name and place takes up what that one was at,
    # and here the queue and the runs' folders know better.
    storage = results.absolute() / ".ray" / uuid.uuid4().hex[:12]
    trainers = [_trainer(queue, slot, slots, results, data_folder, storage, len(jobs)) for slot in range(slots.count)]
    errors: dict[int, BaseException] = {}
    threads = [
        threading.Thread(target=_fit, args=(trainer, slot, errors), daemon=True, name=f"raykd-slot-{slot}")
        for slot, trainer in enumerate(trainers)
    ]
    for thread in threads:
        thread.start()
    try:
        statuses = _wait(queue, slots, threads, watch, should_stop, then)
    except RayError as error:
        reason = str(error).splitlines()[:1] or [type(error).__name__]
        raise RunFailed(f"the queue of the jobs is lost ({reason[0]}); the same command goes on from here") from error
    finally:
        if any(thread.is_alive() for thread in threads):
            _kill_controllers()
            _join(threads, KILL_S)
        shutil.rmtree(storage, ignore_errors=True)  # pointers to what the runs' folders hold
    watch(statuses)
    _blame(statuses, errors)
    return statuses


def _wait(
    queue: Any,
    slots: Slots,
    threads: list[threading.Thread],
    watch: Callable[[list[JobStatus]], None],
    should_stop: Callable[[], bool],
    then: Callable[[Sequence[JobStatus]], list[Job]] | None,
) -> list[JobStatus]:
    """Until every job is at its end, or every trainer, or all that ran when `should_stop` said so is saved."""
    told = False
    while any(thread.is_alive() for thread in threads):
        watch(ray.get(queue.statuses.remote()))
        if should_stop() and not told:
            ray.get(queue.stop.remote())
            told = True
        elif then is not None and ray.get(queue.is_done.remote()):
            ray.get(queue.add_last.remote(then(ray.get(queue.statuses.remote()))))
            then = None
        if ray.get(queue.is_over.remote()):
            break
        lost = ray.get(queue.lost_slots.remote())
        if len(lost) == slots.count and (left := room(_nodes(), slots.cpus, slots.gpus)) < slots.min_workers:
            raise Interrupted(
                f"nodes are lost, and the others have room for {left} of {plural(slots.min_workers, 'worker')} that a "
                "run requires; the same command goes on from the last checkpoints where there is room"
            )
        time.sleep(POLL_S)
    lost = ray.get(queue.lost_slots.remote())
    _join([thread for slot, thread in enumerate(threads) if slot not in lost], END_S)
    return ray.get(queue.statuses.remote())


def _join(threads: list[threading.Thread], timeout_s: float) -> None:
    end = time.monotonic() + timeout_s
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))


def _kill_controllers() -> None:
    """End this command's trainers, whose threads wait for them; they run where the driver does.

    A Ray that is shut down under a waiting thread would end this process with exit code 1.
    """
    job = ray.get_runtime_context().get_job_id()
    with suppress(Exception):  # of several packages; where Ray cannot be asked there is nothing left to try
        found: list[Any] = list_actors(filters=[("class_name", "=", "TrainController"), ("job_id", "=", job)])
        for actor in found:
            if actor.state == "ALIVE" and actor.pid:
                os.kill(actor.pid, signal.SIGKILL)


def _trainer(
    queue: Any, slot: int, slots: Slots, results: Path, data_folder: Path, storage: Path, num_jobs: int
) -> TorchTrainer:
    """A trainer whose workers do the queue's jobs. When one dies all are replaced, and the first asks again."""
    worker = WorkerConfig(
        queue, slot, results.absolute(), data_folder.absolute(), slots.cpus, slots.gpus, slots.may_shrink
    )
    return TorchTrainer(
        work,
        train_loop_config=vars(worker),  # plain values: the controller reads them, and need not import torch for it
        torch_config=_group_config(slots, storage),
        scaling_config=ScalingConfig(
            num_workers=(slots.min_workers, slots.workers) if slots.may_shrink else slots.workers,
            use_gpu=slots.gpus > 0,
            elastic_resize_monitor_interval_s=float("inf"),  # smaller after a loss; not larger, by killing what trains
            resources_per_worker={"CPU": slots.cpus, **({"GPU": slots.gpus} if slots.gpus else {})},
        ),
        run_config=RunConfig(
            name=f"slot{slot}",
            storage_path=str(storage),
            failure_config=FailureConfig(max_failures=MAX_ATTEMPTS * num_jobs),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
        ),
    )


def _group_config(slots: Slots, storage: Path) -> GroupConfig:
    """How a run's workers communicate: gradients from GPU to GPU over NCCL, everything else over gloo."""
    backend = "cpu:gloo,cuda:nccl" if slots.gpus else "gloo"
    timeout_s = IDLE_S if slots.may_shrink else int(STUCK.total_seconds())
    return GroupConfig(backend=backend, timeout_s=timeout_s, folder=str(storage / "groups"))


def _fit(trainer: TorchTrainer, slot: int, errors: dict[int, BaseException]) -> None:
    try:
        trainer.fit()
    except Exception as error:  # noqa: BLE001 - kept for _blame, which names it beside the runs it cost
        errors[slot] = error


def _blame(statuses: list[JobStatus], errors: dict[int, BaseException]) -> None:
    """Jobs that no trainer was left to do have failed, by the trainer's error."""
    for status in statuses:
        if errors and status.state in (State.WAITING, State.RUNNING):
            error = errors.get(status.slot if status.slot is not None else -1, next(iter(errors.values())))
            status.state, status.reason = State.FAILED, f"its trainer failed: {error}"
