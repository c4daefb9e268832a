"""What a trainer's workers do: job after job from the queue, each through the one loop, reported to Ray Train.

Where a run has several workers, the first asks the queue and tells the others; all then train on shares of a batch.

A run's own folder is the truth about it. What `ray.train.report` carries is a pointer to that folder's
checkpoint, so nothing is copied twice and a replaced worker goes on from the file itself.
"""

import json
import tempfile
import time
import traceback
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch

from raykd.errors import RESUME, Interrupted, RaykdError, RunFailed, is_environment_error
from raykd.orchestration.metrics import export
from raykd.orchestration.options import Options, dataset_of
from raykd.orchestration.run_queue import Job, State
from raykd.orchestration.worker_link import ANSWER_S, QueueLink
from raykd.spec.plan import Run
from raykd.store.run_store import RunStore
from raykd.training.compute import choose, device_of, release_memory
from raykd.training.evaluate_best import evaluate_on_test
from raykd.training.failure import is_out_of_memory, loses_gpu
from raykd.training.group import Group, all_workers
from raykd.training.hooks import EpochReport, Hooks
from raykd.training.run_record import precision_of, require_same_data
from raykd.training.teacher.choose import PlannedCache
from raykd.training.teacher.fill import Filler
from raykd.training.teacher.import_check import describe_import
from raykd.training.teacher.imported import read_import_check
from raykd.training.teacher.load import make_filler
from raykd.training.train_one import Logging, RunLocked, train_one

ASK_AGAIN_S = 0.2  # how long a free slot waits before it asks for a job again
RAY_REPORT_EVERY_S = 30.0
_out_of_memory: set[str] = set()  # names of jobs that had no memory on a shared GPU
SHARES = 16  # of a part of a logit cache: some seconds of work for each of several workers


@dataclass(frozen=True)
class WorkerConfig:
    """What each worker of a slot is given: the queue's handle, where results and data are, CPU threads, GPUs."""

    queue: Any
    slot: int
    results: Path
    data_folder: Path
    threads: int
    gpus: float
    may_shrink: bool

    @property
    def options(self) -> Options:
        """Where results and data are."""
        return Options(self.results, self.data_folder)


def work(config: dict[str, Any]) -> None:
    """The `train_loop_per_worker` of every trainer."""
    worker, everyone = WorkerConfig(**config), all_workers(config["may_shrink"])
    link = QueueLink(worker.queue, worker.slot)
    if everyone.is_first:
        link.start()
    while True:
        job, is_over = everyone.first(link.next)
        if job is not None:
            _do(job, worker, everyone, link)
        elif is_over:
            return
        else:
            time.sleep(ASK_AGAIN_S)


def _do(job: Job, worker: WorkerConfig, everyone: Group, link: QueueLink) -> None:
    """Do one job and tell the queue how it ended.

    What goes wrong in it is the job's failure and not the worker's. But where others share the job they wait for
    this worker, and where the GPU is lost this process can do no other: then it ends, and Ray replaces all of them.
    """
    torch.set_num_threads(worker.threads)  # the job before may have kept the threads that it began with
    state, reason, group = State.DONE, "", everyone
    if job.kind != "fill":
        _filler.cache_clear()  # it holds a teacher and all images
    try:
        if job.kind == "train":
            group = everyone.part(job.run.recipe.batch_size)
            _train(job, worker, group, everyone.size, link)
            reason = _imported_in_words(job.run, worker)
        elif job.kind == "fill":
            group = everyone
            _fill(job, worker, everyone, link)
        elif everyone.is_first:
            _evaluate(job.run, worker)
    except RunLocked as error:
        state, reason = State.WAITING, str(error)
    except Interrupted as error:
        state, reason = State.STOPPED, str(error)
    except RaykdError as error:
        state, reason = State.FAILED, str(error)
        if group.size == 1 and _may_fit_later(job, error, worker.gpus):
            state = State.WAITING
    except Exception as error:
        reason = reason_of(error)
        if group.size > 1 or loses_gpu(error):
            link.note(job, reason)  # a worker that is gone looks the same from here as a mistake in the code
            raise
        state = State.FAILED
    finally:
        release_memory()
    if everyone.is_first or state is State.FAILED:
        link.finish(job, state, reason)
    if state is State.FAILED and group.size > 1:
        raise RunFailed(reason)


def _may_fit_later(job: Job, error: RaykdError, gpus: float) -> bool:
    """Whether to try a run again that had no memory on a GPU that it shares: another run may have taken it.

    Once in each worker's process, after the jobs that are ready.
    """
    if not 0 < gpus < 1 or job.name in _out_of_memory or not is_out_of_memory(error):
        return False
    _out_of_memory.add(job.name)
    return True


def reason_of(error: Exception) -> str:
    """Return why a job failed: one line for a disk, a quota or rights; with the traceback for a mistake in the code."""
    if is_environment_error(error):
        return f"{error}; {RESUME}"
    return f"{type(error).__name__}: {error}\n{traceback.format_exc()}"


def _evaluate(run: Run, worker: WorkerConfig) -> None:
    dataset = dataset_of(run.data, worker.options)
    require_same_data(run.name, run.data_identity, dataset)
    folder = RunStore(worker.results).folder(run)
    evaluate_on_test(folder, dataset, choose(device_of(worker.gpus), precision_of(folder)))


def _fill(job: Job, worker: WorkerConfig, group: Group, link: QueueLink) -> None:
    """Fill a part of a teacher's logit cache, each of several workers a share of it."""
    assert job.cache is not None
    filler = _filler(job.cache, worker.options, worker.gpus)
    if group.size == 1:
        filler.fill(job.part, should_stop=link.should_stop)
        return
    for share in range(SHARES):  # the first worker alone hears of a stop, and the others between two shares
        if group.agree(link.should_stop())[0]:
            raise Interrupted("stopped while the teacher's logit cache is filled; the same command goes on")
        filler.fill(job.part, share * group.size + group.rank, SHARES * group.size)
    group.gather(torch.zeros(1))  # a part is done when all have done theirs


@lru_cache(maxsize=1)
def _filler(cache: PlannedCache, options: Options, gpus: float) -> Filler:
    """For all parts that this worker fills one after another."""
    return make_filler(cache, RunStore(options.results), dataset_of(cache.data, options), device_of(gpus))


def _train(job: Job, worker: WorkerConfig, group: Group, num_workers: int, link: QueueLink) -> None:
    """Train a run with the workers of `group`. Their reports reach Ray only where all workers are in the group."""
    if not group.is_member:
        return
    run, store, device = job.run, RunStore(worker.results), device_of(worker.gpus)
    folder, dataset = store.folder(run), dataset_of(run.data, worker.options)
    to_ray = _RayReports(folder.checkpoint, group)

    def on_epoch(report: EpochReport) -> None:
        if group.size == num_workers:
            to_ray.add(report)
        if group.is_first:
            worker.queue.report.remote(report)
            export(run, report, device)

    logging = Logging(tensorboard=True, gpus=worker.gpus)
    train_one(run, folder, dataset, device, store, job.cache, Hooks(on_epoch, link.should_stop), group, logging)
    to_ray.flush()


def _imported_in_words(run: Run, worker: WorkerConfig) -> str:
    """What was found of an imported teacher, for the log; '' for a run that was trained."""
    found = read_import_check(RunStore(worker.results).folder(run)) if run.imported is not None else None
    return describe_import(found) if found is not None else ""


class _RayReports:
    """Metrics for Ray Train, with a pointer to where the run can be taken up again.

    Sent by a thread: a report waits for Train's controller, 0.2 s, and for ever on a node that was cut off.
    """

    def __init__(self, checkpoint: Path, group: Group) -> None:
        self._checkpoint, self._group = checkpoint, group
        self._reported: float | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="raykd-report")
        self._sent: Future[None] | None = None

    def add(self, report: EpochReport) -> None:
        """Report the first epoch, the last, and one every RAY_REPORT_EVERY_S between."""
        last = report.epoch + 1 == report.epochs
        if self._reported is not None and not last and not self._is_due(self._reported):
            return
        self._sent = self._thread.submit(self._send, report)
        self._reported = time.monotonic()

    def _is_due(self, reported: float) -> bool:
        """Of several workers, all or none: a report waits for the others'."""
        return self._group.agree(time.monotonic() - reported >= RAY_REPORT_EVERY_S)[0]

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
            pointer = ray.train.Checkpoint.from_directory(folder) if self._group.is_first else None
            ray.train.report(asdict(report), checkpoint=pointer)
