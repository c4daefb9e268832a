"""What a trainer's worker does: job after job from the queue, each through the one loop, reported to Ray Train.

A run's own folder is the truth about it. What `ray.train.report` carries is a pointer to that folder's
checkpoint, so nothing is copied twice and a replaced worker goes on from the file itself.
"""

import json
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch

from raykd.data.dataset import Dataset, load
from raykd.errors import Interrupted, RaykdError
from raykd.experiment import Data
from raykd.orchestration.queue import Job, State
from raykd.plan import Run
from raykd.runs import RunStore
from raykd.training.device import device_of
from raykd.training.loop import EpochReport, Hooks, fit
from raykd.training.teachers import LiveTeacher, Teacher, no_teacher
from raykd.training.tensorboard import TensorBoard
from raykd.training.testing import evaluate_on_test
from raykd.training.trained import load_trained

ASK_AGAIN_S = 0.2  # how long a free slot waits before it asks for a job again
RAY_REPORT_EVERY_S = 30.0  # a report waits for Train's controller, 0.2 s: a fifth of an epoch on an H100
WRITER_WAIT_S = 60.0  # a worker that was replaced may take this long to let go of its run


@dataclass(frozen=True)
class WorkerConfig:
    """What each worker of a slot is given: the queue's handle, where results and data are, CPU threads, GPUs."""

    queue: Any
    slot: int
    results: Path
    data_folder: Path
    threads: int
    gpus: float


def work(config: dict[str, Any]) -> None:
    """The `train_loop_per_worker` of every trainer."""
    worker: WorkerConfig = config["worker"]
    stopping = _watch(worker.queue)
    while True:
        job: Job | None = ray.get(worker.queue.next.remote(worker.slot))
        if job is not None:
            state, reason = _do(job, worker, stopping.is_set)
            ray.get(worker.queue.finish.remote(worker.slot, job.name, state, reason))
        elif ray.get(worker.queue.is_over.remote()) or stopping.is_set():
            return
        else:
            time.sleep(ASK_AGAIN_S)


def _do(job: Job, worker: WorkerConfig, should_stop: Callable[[], bool]) -> tuple[State, str]:
    """Do one job; whatever goes wrong in it is its own failure and not the worker's."""
    torch.set_num_threads(worker.threads)  # the job before may have kept the threads that it began with
    try:
        device = device_of(worker.gpus)
        if job.kind == "train":
            _train(job.run, worker, device, should_stop)
        else:
            folder = RunStore(worker.results).folder(job.run)
            evaluate_on_test(folder, _dataset(job.run.data, worker), device, job.run.recipe.precision)
    except Interrupted as error:
        return State.STOPPED, str(error)
    except RaykdError as error:
        return State.FAILED, str(error)
    except Exception as error:  # noqa: BLE001 - a defect or a full GPU: the other runs go on
        return State.FAILED, f"{error or type(error).__name__}\n{traceback.format_exc()}"
    finally:
        torch.cuda.empty_cache()  # nothing where CUDA was not used
    return State.DONE, ""


def _train(run: Run, worker: WorkerConfig, device: torch.device, should_stop: Callable[[], bool]) -> None:
    folder = RunStore(worker.results).folder(run)
    teacher = _teacher(run, worker, device)
    to_ray = _RayReports(folder.checkpoint)
    with TensorBoard(folder.tensorboard) as board:

        def on_epoch(report: EpochReport) -> None:
            board.add(report)
            worker.queue.report.remote(report)
            to_ray.add(report)

        fit(run, _dataset(run.data, worker), folder, device, teacher, Hooks(on_epoch, should_stop), WRITER_WAIT_S)


def _teacher(run: Run, worker: WorkerConfig, device: torch.device) -> Teacher:
    if run.teacher is None:
        return no_teacher
    model = load_trained(RunStore(worker.results).folder(run.teacher).best).to(device)
    return LiveTeacher(model.to(memory_format=torch.channels_last))  # type: ignore[call-overload]


class _RayReports:
    """Metrics for Ray Train, with a pointer to where the run can be taken up again."""

    def __init__(self, checkpoint: Path) -> None:
        self._checkpoint = checkpoint
        self._reported: float | None = None

    def add(self, report: EpochReport) -> None:
        """Report the first epoch, the last, and one every RAY_REPORT_EVERY_S between."""
        last = report.epoch + 1 == report.epochs
        if self._reported is not None and not last and time.monotonic() - self._reported < RAY_REPORT_EVERY_S:
            return
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "pointer.json").write_text(json.dumps({"checkpoint": str(self._checkpoint)}))
            ray.train.report(asdict(report), checkpoint=ray.train.Checkpoint.from_directory(folder))
        self._reported = time.monotonic()


def _dataset(data: Data, worker: WorkerConfig) -> Dataset:
    return _loaded(data.name, worker.data_folder, data.image_size, worker.results / ".data")


@cache
def _loaded(name: str, folder: Path, image_size: int | None, decoded: Path) -> Dataset:
    """Once per worker, however many runs it does."""
    return load(name, folder, image_size, cache=decoded)


def _watch(queue: Any) -> threading.Event:
    """An event that is set soon after the queue was told to stop; a thread asks, so that a step never waits."""
    stopping = threading.Event()

    def ask() -> None:
        while not stopping.wait(0.5):
            if ray.get(queue.is_stopping.remote()):
                stopping.set()

    threading.Thread(target=ask, daemon=True, name="raykd-stop").start()
    return stopping
