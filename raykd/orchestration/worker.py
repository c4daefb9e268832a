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
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.exceptions import RayError

from raykd.data.dataset import Dataset, load
from raykd.errors import Interrupted, RaykdError, RunFailed
from raykd.experiment import Data
from raykd.orchestration.queue import Job, State
from raykd.orchestration.teacher import teacher_from
from raykd.plan import Run
from raykd.run_folder import RunFolder
from raykd.runs import RunStore
from raykd.training.device import device_of
from raykd.training.loop import EpochReport, Hooks, fit
from raykd.training.records import require_same_data
from raykd.training.teachers import Teacher, no_teacher
from raykd.training.tensorboard import TensorBoard
from raykd.training.testing import evaluate_on_test

LOCK_WAIT_S = 1.0  # who only looks how far a run is has its lock for an instant
ASK_AGAIN_S = 0.2  # how long a free slot waits before it asks for a job again
ASK_EVERY_S = 0.5
ANSWER_S = 20.0  # without an answer for so long, the queue cannot be reached
LOST_GPU = ("CUDA error", "CUBLAS_STATUS", "CUDNN_STATUS", "cuDNN error")
RAY_REPORT_EVERY_S = 30.0


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
    worker = WorkerConfig(**config)
    link = _QueueLink(worker.queue, worker.slot)
    while True:
        job: Job | None = ray.get(worker.queue.next.remote(worker.slot))
        if job is not None:
            state, reason = _do(job, worker, link.should_stop)
            if state is State.STOPPED and not link.stopping.is_set():
                state, reason = State.WAITING, f"lost touch with the queue; {reason}"
            ray.get(worker.queue.finish.remote(worker.slot, job.name, state, reason))
        elif ray.get(worker.queue.is_over.remote()) or link.stopping.is_set():
            return
        else:
            time.sleep(ASK_AGAIN_S)


def _do(job: Job, worker: WorkerConfig, should_stop: Callable[[], bool]) -> tuple[State, str]:
    """Do one job; whatever goes wrong in it is its own failure and not the worker's, unless the GPU is lost to it."""
    torch.set_num_threads(worker.threads)  # the job before may have kept the threads that it began with
    try:
        device = device_of(worker.gpus)
        if job.kind == "train":
            _train(job.run, worker, device, should_stop)
        else:
            folder = RunStore(worker.results).folder(job.run)
            dataset = _dataset(job.run.data, worker)
            require_same_data(job.run, dataset)
            evaluate_on_test(folder, dataset, device, job.run.recipe.precision)
    except _Held as error:
        return State.WAITING, str(error)
    except Interrupted as error:
        return State.STOPPED, str(error)
    except RaykdError as error:
        return State.FAILED, str(error)
    except Exception as error:
        if any(words in str(error) for words in LOST_GPU):  # to this process: let Ray replace it
            raise
        return State.FAILED, f"{type(error).__name__}: {error}\n{traceback.format_exc()}"
    finally:
        torch.cuda.empty_cache()  # nothing where CUDA was not used
    return State.DONE, ""


def _train(run: Run, worker: WorkerConfig, device: torch.device, should_stop: Callable[[], bool]) -> None:
    folder = RunStore(worker.results).folder(run)
    to_ray = _RayReports(folder.checkpoint)
    with _only_writer(folder), TensorBoard(folder.tensorboard) as board:
        teacher = _teacher(run, worker, device)

        def on_epoch(report: EpochReport) -> None:
            worker.queue.report.remote(report)
            to_ray.add(report)
            try:
                board.add(report)
            except OSError as error:  # a quota, say: the run itself is sound, and its own files will tell
                print(f"raykd: epoch {report.epoch} of {run.name} is not in TensorBoard: {error}")

        fit(run, _dataset(run.data, worker), folder, device, teacher, Hooks(on_epoch, should_stop))
    to_ray.flush()


class _Held(RaykdError):
    """Another command is at the run."""


def _only_writer(folder: RunFolder) -> AbstractContextManager[object]:
    """The run's lock, which `fit` then takes once more. Raises _Held soon: whoever has it may need hours."""
    try:
        return folder.writer(LOCK_WAIT_S)
    except RunFailed:
        raise _Held(f"{folder.record().get('writer', 'another process')} is at it") from None


def _teacher(run: Run, worker: WorkerConfig, device: torch.device) -> Teacher:
    if run.teacher is None:
        return no_teacher
    return teacher_from(RunStore(worker.results).folder(run.teacher), device)


class _RayReports:
    """Metrics for Ray Train, with a pointer to where the run can be taken up again.

    Sent by a thread: a report waits for Train's controller, 0.2 s, and for ever on a node that was cut off.
    """

    def __init__(self, checkpoint: Path) -> None:
        self._checkpoint = checkpoint
        self._reported: float | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="raykd-report")
        self._sent: Future[None] | None = None

    def add(self, report: EpochReport) -> None:
        """Report the first epoch, the last, and one every RAY_REPORT_EVERY_S between."""
        last = report.epoch + 1 == report.epochs
        if self._reported is not None and not last and time.monotonic() - self._reported < RAY_REPORT_EVERY_S:
            return
        self._sent = self._thread.submit(self._send, report)
        self._reported = time.monotonic()

    def flush(self) -> None:
        """Wait until the last one is told, a while. That Ray could not be told is no failure of the run."""
        self._thread.shutdown(wait=False)
        if self._sent is None:
            return
        wait([self._sent], timeout=ANSWER_S)
        if self._sent.done() and (error := self._sent.exception()):
            print(f"raykd: not told to Ray Train: {error}")

    def _send(self, report: EpochReport) -> None:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "pointer.json").write_text(json.dumps({"checkpoint": str(self._checkpoint)}))
            ray.train.report(asdict(report), checkpoint=ray.train.Checkpoint.from_directory(folder))


def _dataset(data: Data, worker: WorkerConfig) -> Dataset:
    return _loaded(data.name, worker.data_folder, data.image_size, worker.results / ".data")


@cache
def _loaded(name: str, folder: Path, image_size: int | None, decoded: Path) -> Dataset:
    """Once per worker, however many runs it does."""
    return load(name, folder, image_size, cache=decoded)


class _QueueLink:
    """What the queue wants of this worker, asked by a thread, so that a step never waits for the answer.

    A worker that gets no answer is on a node that was cut off, and its run will be given to another: it saves and
    stops, well before LOST_AFTER_S. Where the answer comes after all, it asks for a job again.
    """

    def __init__(self, queue: Any, slot: int) -> None:
        self._queue, self._slot = queue, slot
        self.stopping = threading.Event()
        self.lost = threading.Event()
        threading.Thread(target=self._ask, daemon=True, name="raykd-stop").start()

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
