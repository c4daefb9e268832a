"""The workers of a trainer: they do one job after another from the queue, and report to Ray Train.

If a run has several workers, the first one requests the job from the queue and sends it to the other workers. Each
trains on a part of every batch.

The run's folder holds everything that is needed to resume. `ray.train.report` carries only a pointer to the checkpoint
in that folder, so nothing is copied, and a replacement worker resumes from the file itself.
"""

import json
import logging
import pickle
import tempfile
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch

from raykd.errors import Interrupted, RunLocked
from raykd.orchestration.options import Options, dataset_of
from raykd.orchestration.process_group import assigned_gpu
from raykd.orchestration.prometheus import export_metrics
from raykd.orchestration.run_queue import Job
from raykd.orchestration.worker_link import ANSWER_S, QueueLink
from raykd.orchestration.worker_warnings import warnings_to
from raykd.spec.plan import Run
from raykd.spec.trackers import TENSORBOARD
from raykd.training.compute import choose_compute, device_for, release_memory
from raykd.training.failure import decide_job
from raykd.training.final_evaluation import evaluate_on_test
from raykd.training.group import Group, default_group
from raykd.training.hooks import EpochReport, Hooks
from raykd.training.run_record import require_same_data
from raykd.training.teacher.choose import PlannedCache
from raykd.training.teacher.fill import STOPPED, Filler
from raykd.training.teacher.import_check import describe_import
from raykd.training.teacher.imported import read_import_check
from raykd.training.teacher.load import make_filler
from raykd.training.train_one import Observers, locked, train_one

_log = logging.getLogger(__name__)
IDLE_POLL_S = 0.2  # seconds between a free slot's requests for a job
RAY_REPORT_EVERY_S = 30.0
_failed_report = threading.Event()  # set when a report of this process to Ray Train failed, or did not end in time
CHUNKS = 16  # one part of a logit cache is split into these; with several workers each chunk is some seconds of work


@dataclass(frozen=True)
class WorkerConfig:
    """The configuration of a slot's workers. queue: the actor's handle. threads, gpus: for each worker.

    pickled_options: the command's Options. The trainer's controller reads this configuration too, and need not import
    torch or load the user's callbacks.
    """

    queue: Any
    slot: int
    threads: int
    gpus: float
    may_shrink: bool
    pickled_options: bytes

    @cached_property
    def options(self) -> Options:
        return pickle.loads(self.pickled_options)  # noqa: S301 - of this command's driver


def work(config: dict[str, Any]) -> None:
    """Do jobs until no job is left and none will be added. This is the `train_loop_per_worker` of every trainer."""
    worker, all_workers = WorkerConfig(**config), default_group(config["may_shrink"])
    link = QueueLink(worker.queue, worker.slot)
    with link if all_workers.is_first else nullcontext():
        while True:
            job, is_over = all_workers.on_first(link.next_job)
            if job is not None:
                with warnings_to(partial(worker.queue.warn.remote, job.name)):
                    _do(job, worker, all_workers, link)
            elif is_over:
                return
            else:
                time.sleep(IDLE_POLL_S)


def _do(job: Job, worker: WorkerConfig, all_workers: Group, link: QueueLink) -> None:
    """Do one job, and report to the queue how it ended.

    An error fails the job and not the worker, unless the decision ends this process. Then Ray replaces the slot's
    workers.
    """
    torch.set_num_threads(worker.threads)  # the previous job may have resumed a run with another number
    if job.kind != "fill":
        _filler.cache_clear()  # it holds a teacher and all images
    group, line, decision = all_workers, "", None
    try:
        with assigned_gpu(worker.gpus):
            if job.kind == "train":
                group = all_workers.subgroup(job.run.recipe.images_per_pass)
                line = _train(job, worker, group, all_workers.size, link)
            elif job.kind == "fill":
                line = _fill(job, worker, all_workers, link)
            elif all_workers.is_first:
                _evaluate(job.run, worker)
    except Exception as error:
        decision = decide_job(error, worker.gpus, group.size, link.was_out_of_memory(job))
        if decision.ends_process:
            link.carry_out(job, decision)
            raise
    finally:
        release_memory()
    if all_workers.is_first and decision is not None:
        link.carry_out(job, decision)
    elif all_workers.is_first:
        link.finish(job, line)


def _evaluate(run: Run, worker: WorkerConfig) -> None:
    dataset = dataset_of(run.data, worker.options)
    require_same_data(run.name, run.data_identity, dataset)
    folder = worker.options.store.folder(run)
    precision = folder.require_record().compute.precision
    compute = choose_compute(device_for(worker.gpus), precision)
    evaluate_on_test(run, folder, dataset, compute, shares_gpu=0 < worker.gpus < 1)
    if not worker.options.keep_checkpoints:
        with suppress(RunLocked), locked(folder):  # a run that another process has locked keeps it
            folder.remove_checkpoint()


def _fill(job: Job, worker: WorkerConfig, group: Group, link: QueueLink) -> str:
    """Fill one part of a logit cache, which several workers divide into chunks. Return `Filler.describe_error`."""
    assert job.cache is not None
    filler = _filler(job.cache, worker.options, worker.gpus)
    if group.size == 1:
        filler.fill(job.part, should_stop=link.should_stop)
        return filler.describe_error()
    for chunk in range(CHUNKS):
        # Only the first worker polls whether to stop. It informs the other workers between two chunks.
        if group.broadcast_flags(link.should_stop())[0]:
            raise Interrupted(STOPPED)
        filler.fill(job.part, chunk * group.size + group.rank, CHUNKS * group.size)
    group.gather(torch.zeros(1))  # the part is filled when all workers are here
    return filler.describe_error()


@lru_cache(maxsize=1)
def _filler(cache: PlannedCache, options: Options, gpus: float) -> Filler:
    """Return the Filler of `cache`, and keep it for the parts that this worker fills one after another."""
    return make_filler(cache, options.store, dataset_of(cache.data, options), device_for(gpus))


def _train(job: Job, worker: WorkerConfig, group: Group, num_workers: int, link: QueueLink) -> str:
    """Train a run with the workers of `group`, and return how imported weights fit, or ''.

    Ray Train receives reports only when all workers are in the group.
    """
    if not group.is_member:
        return ""
    run, store, device = job.run, worker.options.store, device_for(worker.gpus)
    folder, dataset = store.folder(run), dataset_of(run.data, worker.options)
    to_ray = _RayReports(folder.checkpoint, group)

    def on_epoch(report: EpochReport) -> None:
        if group.size == num_workers:
            to_ray.add(report)
        if group.is_first:
            worker.queue.report.remote(report)
            export_metrics(run, report, device)

    hooks = Hooks(on_epoch, link.should_stop)
    observers = Observers(
        TENSORBOARD in worker.options.trackers,
        gpus=worker.gpus,
        callbacks=worker.options.callbacks,
        log=lambda line: worker.queue.log.remote(run.name, line),
    )
    train_one(run, folder, dataset, device, store, job.cache, hooks, group, observers)
    to_ray.flush()
    check = read_import_check(folder) if run.imported is not None else None
    return describe_import(check) if check else ""


class _RayReports:
    """Send metrics and the pointer to the run's checkpoint to Ray Train.

    A thread sends them, because a report waits 0.2 s for Train's controller, and forever on a node that has lost its
    connection. Train numbers the reports of a process, and each waits for all earlier ones. So after one that failed,
    this process sends no more. The run's folder has everything that is needed to resume.
    """

    def __init__(self, checkpoint: Path, group: Group) -> None:
        self._checkpoint, self._group = checkpoint, group
        self._reported: float | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="raykd-report")
        self._sent: Future[None] | None = None

    def add(self, report: EpochReport) -> None:
        """Report the first epoch, the last, and one every RAY_REPORT_EVERY_S between."""
        if self._reported is not None and not report.is_last:
            is_due = time.monotonic() - self._reported >= RAY_REPORT_EVERY_S
            if not self._group.broadcast_flags(is_due)[0]:  # the first worker decides for all: a report waits for all
                return
        self._sent = self._thread.submit(self._send, report)
        self._reported = time.monotonic()

    def flush(self) -> None:
        """Wait up to ANSWER_S until the last report is sent. A report that fails does not fail the run."""
        self._thread.shutdown(wait=False)
        if self._sent is None:
            return
        wait([self._sent], timeout=ANSWER_S)
        if not self._sent.done():
            _failed_report.set()

    def _send(self, report: EpochReport) -> None:
        if _failed_report.is_set():
            return
        try:
            self._send_to_train(report)
        except Exception as error:  # noqa: BLE001 - a report that fails does not fail the run
            _failed_report.set()
            _log.warning("an epoch could not be reported to Ray Train, nor will later ones: %s", error)

    def _send_to_train(self, report: EpochReport) -> None:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "pointer.json").write_text(json.dumps({"checkpoint": str(self._checkpoint)}))
            pointer = ray.train.Checkpoint.from_directory(folder) if self._group.is_first else None
            ray.train.report(asdict(report), checkpoint=pointer)
