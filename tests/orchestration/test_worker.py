"""How one job ends in a worker: errors fail the job, and only a lost GPU ends the worker."""

import json
import pickle
import threading
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_runs import digits, recipe, run_of, train
from written_records import record_of

from raykd.errors import Interrupted, OutOfMemory, RunFailed
from raykd.orchestration.options import Options
from raykd.orchestration.run_queue import Job
from raykd.store.run_store import RunStore
from raykd.training.failure import CaptureFailed, Decision
from raykd.training.group import SINGLE_WORKER, Group
from raykd.training.hooks import EpochReport
from raykd.training.teacher.choose import PlannedCache

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray")]

RUN = run_of("baseline")


class FakeQueue:
    """Record what the worker reports to the queue."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.decisions: list[Decision] = []
        self.finish = SimpleNamespace(remote=lambda slot, name, line: self._add(self.done, line))
        self.carry_out = SimpleNamespace(remote=lambda slot, name, decision: self._add(self.decisions, decision))
        self.report = SimpleNamespace(remote=lambda report: None)

    def _add(self, values: list[Any], value: object) -> Any:
        import ray  # here: `cluster` must import it first

        values.append(value)
        return ray.put(None)


def link_to(queue: FakeQueue) -> Any:
    from raykd.orchestration.worker_link import QueueLink  # here: it imports Ray, as above

    return QueueLink(queue, 0)


def do(
    kind: str,
    results: Path,
    group: Group = SINGLE_WORKER,
    link: Any = None,
    queue: object = None,
    gpus: float = 0,
    cache: PlannedCache | None = None,
) -> tuple[str, str]:
    """Do a job, and return 'done' and its line, or whether an error is retried and the reason."""
    from raykd.orchestration.worker import WorkerConfig, _do  # here: it imports Ray, as above

    options = pickle.dumps(Options(results, Path("no-data-here")))
    config = WorkerConfig(queue, 0, threads=1, gpus=gpus, may_shrink=False, pickled_options=options)
    link = link or link_to(FakeQueue())
    _do(Job(kind, RUN, cache=cache), config, group, link)  # type: ignore[arg-type]
    reports: FakeQueue = link._queue
    if reports.done:
        return "done", reports.done[-1]
    return reports.decisions[-1].retry, reports.decisions[-1].reason


@pytest.mark.parametrize("keeps", [False, True])
def test_the_checkpoint_is_removed_after_the_evaluation_unless_a_field_keeps_it(
    keeps: bool, cluster: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from raykd.orchestration.worker import WorkerConfig, _evaluate

    monkeypatch.setattr("raykd.orchestration.worker.dataset_of", lambda *_: digits())
    folder = RunStore(tmp_path).folder(RUN)
    train(RUN, folder)
    assert folder.checkpoint.is_file()
    options = Options(tmp_path, Path("no-data-here"), keep_checkpoints=keeps)
    config = WorkerConfig(None, 0, threads=1, gpus=0, may_shrink=False, pickled_options=pickle.dumps(options))
    _evaluate(RUN, config)
    assert folder.test.is_file() and folder.status() == "done" and folder.checkpoint.is_file() == keeps


@pytest.fixture
def fails(cluster: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Return a function that does a job which raises the given error."""

    def fail(error: Exception, link: Any = None) -> tuple[str, str]:
        def evaluate(*_: object, **__: object) -> None:
            raise error

        RunStore(tmp_path).folder(RUN).write_record(record_of(RUN))
        monkeypatch.setattr("raykd.orchestration.worker.evaluate_on_test", evaluate)
        return do("evaluate", tmp_path, link=link)

    return fail


def test_an_error_is_reported_to_the_queue_and_does_not_end_the_worker(fails) -> None:
    assert fails(RunFailed("loss became NaN in epoch 3")) == ("no", "loss became NaN in epoch 3")
    retry, reason = fails(ZeroDivisionError("division by zero"))
    assert retry == "no" and "test_worker.py" in reason


def test_a_lost_gpu_ends_the_worker_after_a_report(fails) -> None:
    queue, error = FakeQueue(), RuntimeError("CUDA error: an illegal memory access was encountered")
    with pytest.raises(RuntimeError, match="CUDA error"):
        fails(error, link_to(queue))
    assert [decision.retry for decision in queue.decisions] == ["another process"] and not queue.done


def test_a_gpu_that_does_not_start_ends_the_worker_after_a_report(
    cluster: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """For example, another program uses a GPU in exclusive mode. An error outside a job would not be reported."""
    from raykd.orchestration.process_group import GroupConfig

    def set_device(_: object) -> None:
        raise RuntimeError("CUDA error: CUDA-capable device(s) is/are busy or unavailable")

    assert GroupConfig.of_workers(1.0, tmp_path).train_func_context is nullcontext, "Ray's own starts the GPU"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", set_device)
    monkeypatch.setattr("ray.train.torch.get_device", lambda: torch.device("cuda", 1))
    queue = FakeQueue()
    with pytest.raises(RuntimeError, match="busy"):
        do("train", tmp_path, link=link_to(queue), gpus=1.0)
    (decision,) = queue.decisions
    assert decision.retry == "another process" and decision.blames_gpu and "busy or unavailable" in decision.reason


def test_a_worker_without_a_gpu_starts_none(cluster: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: pytest.fail("looked for a GPU"))
    monkeypatch.setattr("raykd.orchestration.worker._train", lambda *_: "")
    assert do("train", tmp_path)[0] == "done"


@pytest.mark.parametrize(
    "error",
    [
        CaptureFailed("its training step cannot be captured as a CUDA graph"),
        RuntimeError("CUDA error: device-side assert triggered"),
    ],
    ids=["capture", "assert"],
)
def test_an_error_that_would_occur_again_fails_the_run_before_the_worker_ends(error: Exception, fails) -> None:
    queue = FakeQueue()
    with pytest.raises(type(error), match=str(error)):
        fails(error, link_to(queue))
    (decision,) = queue.decisions
    assert decision.retry == "no" and str(error) in decision.reason


@pytest.mark.parametrize(("gpus", "retries"), [(0.5, ["later", "no"]), (1.0, ["no", "no"]), (0.0, ["no", "no"])])
@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("train", OutOfMemory("out of memory with student.batch_size = 512: lower it")),
        ("evaluate", torch.OutOfMemoryError("CUDA out of memory")),
    ],
    ids=["train", "evaluate"],
)
def test_job_out_of_memory_on_a_shared_gpu_is_retried_once(
    kind: str,
    error: Exception,
    gpus: float,
    retries: list[str],
    cluster: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    def run_out_of_memory(*_: object) -> None:
        raise error

    monkeypatch.setattr(f"raykd.orchestration.worker._{kind}", run_out_of_memory)
    link = link_to(FakeQueue())
    assert [do(kind, tmp_path, link=link, gpus=gpus)[0] for _ in retries] == retries


def test_every_epoch_is_reported_to_the_queue_and_to_prometheus(
    cluster: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    reported, exported = [], []
    queue = SimpleNamespace(report=SimpleNamespace(remote=lambda report: reported.append(report.epoch)))
    monkeypatch.setattr("raykd.orchestration.worker.export_metrics", lambda _, epoch, __: exported.append(epoch.epoch))
    monkeypatch.setattr("raykd.orchestration.worker.dataset_of", lambda *_: digits())
    assert do("train", tmp_path, queue=queue) == ("done", "")
    assert reported == exported == list(range(RUN.recipe.epochs))
    (piece,) = json.loads(RunStore(tmp_path).folder(RUN).usage(0).read_text())["pieces"]
    assert (piece["gpus"], piece["joules"], piece["joules_missing_reason"]) == (0, None, "no GPU")
    assert piece["seconds"] > 0


def test_worker_for_which_others_wait_reports_to_the_queue_and_ends(
    cluster: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    second, queue = Group(rank=1, size=2), FakeQueue()

    def train(error: Exception) -> None:
        def raises(*_: object) -> None:
            raise error

        monkeypatch.setattr("raykd.orchestration.worker._train", raises)
        do("train", tmp_path, second, link_to(queue))

    with pytest.raises(RunFailed):
        train(RunFailed("teacher's file is damaged"))
    (final,) = queue.decisions
    assert (final.retry, final.reason) == ("no", "teacher's file is damaged"), "an error of raykd is final"
    with pytest.raises(RuntimeError):
        train(RuntimeError("Connection closed by peer"))
    assert queue.decisions[1].retry == "another process", "the error may mean a lost worker"
    assert queue.decisions[1].reason.startswith("RuntimeError: Connection closed by peer\n")
    train(Interrupted("stopped after epoch 3"))
    assert len(queue.decisions) == 2, "only the first worker reports a stop, and no worker ends"


def test_filled_part_of_top_classes_reports_the_error_of_the_cache(cluster: str, tmp_path: Path) -> None:
    """The last part of a cache thus reports that of the whole; one of all classes has none to report."""
    teacher, store = run_of("teacher", teacher=recipe(epochs=1)), RunStore(tmp_path)
    train(teacher, store.folder(teacher))
    planned = PlannedCache((teacher,), teacher.data, "fp32", ((0, 1),), False, 1, cached_classes=3)
    state, reason = do("fill", tmp_path, cache=planned)
    assert state == "done" and reason.startswith("the kept classes have ")
    assert do("fill", tmp_path, cache=replace(planned, cached_classes=None)) == ("done", "")


def test_stop_is_not_a_failure(fails) -> None:
    assert fails(Interrupted("stopped after epoch 3")) == ("next command", "stopped after epoch 3")


def test_run_that_another_process_has_locked_waits(cluster: str, tmp_path: Path) -> None:
    folder = RunStore(tmp_path).folder(RUN)
    with folder.lock():
        folder.write_record(record_of(RUN, status="running", writer="process 7 on elsewhere"))
        retry, reason = do("train", tmp_path)
        assert retry == "later" and reason.startswith("locked by process 7 on elsewhere since ")
    assert folder.status() == "interrupted"


def test_short_lock_of_a_reader_does_not_make_a_run_wait(cluster: str, tmp_path: Path) -> None:
    is_locked = threading.Event()

    def lock_for_a_moment() -> None:
        with RunStore(tmp_path).folder(RUN).lock():
            is_locked.set()
            time.sleep(0.3)

    reader = threading.Thread(target=lock_for_a_moment)
    reader.start()
    assert is_locked.wait(10)
    state, reason = do("train", tmp_path)
    reader.join()
    assert state == "no" and "no-data-here" not in reason, "the queue is missing here: it got as far as a report"


@pytest.mark.parametrize("is_slow", [False, True], ids=["fails", "does not end"])
def test_no_epoch_is_reported_to_ray_train_after_a_report_that_failed(
    is_slow: bool, cluster: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Train counts the failed report, and each later one would wait for it without end."""
    import ray.train

    from raykd.orchestration import worker

    calls, end = [], threading.Event()

    def report(*_: object, **__: object) -> None:
        calls.append(1)
        if not is_slow:
            raise OSError(5, "Input/output error")
        end.wait(60)

    monkeypatch.setattr(ray.train, "report", report)
    monkeypatch.setattr(worker, "ANSWER_S", 0.2)
    monkeypatch.setattr(worker, "_failed_report", threading.Event())
    began = time.monotonic()
    for _ in range(3):
        reports = worker._RayReports(tmp_path, SINGLE_WORKER)
        reports.add(EpochReport("run", 2, 3, {"loss": 1.0}, 1.0, 1.0, 1.0, 1.0, 0.1, 1.0, 1.0))
        reports.flush()
    end.set()
    assert len(calls) == 1 and time.monotonic() - began < 2
