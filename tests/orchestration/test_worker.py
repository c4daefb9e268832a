"""What becomes of one job in a worker: each way to go wrong is the job's own end, but a lost GPU is the worker's."""

import threading
import time
from pathlib import Path

import pytest
from small_runs import run_of

from raykd.errors import Interrupted, RunFailed
from raykd.orchestration.queue import Job, State
from raykd.runs import RunStore

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray")]

RUN = run_of("baseline")


def do(kind: str, results: Path) -> tuple[State, str]:
    from raykd.orchestration.worker import WorkerConfig, _do  # here: it imports Ray, which `cluster` must do first

    config = WorkerConfig(None, 0, results, Path("no-data-here"), threads=1, gpus=0)
    return _do(Job(kind, RUN), config, lambda: False)  # type: ignore[arg-type]


@pytest.fixture
def fails(cluster: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Do a job that raises an error."""

    def fail(error: Exception) -> tuple[State, str]:
        def evaluate(*_: object) -> None:
            raise error

        monkeypatch.setattr("raykd.orchestration.worker.evaluate_on_test", evaluate)
        return do("evaluate", tmp_path)

    return fail


def test_error_of_ours_is_one_line(fails) -> None:
    assert fails(RunFailed("loss became NaN in epoch 3")) == (State.FAILED, "loss became NaN in epoch 3")


def test_defect_keeps_its_traceback_after_the_first_line(fails) -> None:
    state, reason = fails(ZeroDivisionError("division by zero"))
    assert state is State.FAILED
    first, *rest = reason.splitlines()
    assert first == "ZeroDivisionError: division by zero" and any("test_worker.py" in line for line in rest)
    assert fails(KeyError("fc"))[1].startswith("KeyError: 'fc'\n"), "its words alone would say nothing"


def test_full_gpu_is_the_runs_failure_and_a_lost_gpu_the_workers(fails) -> None:
    assert fails(RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"))[0] is State.FAILED
    with pytest.raises(RuntimeError, match="CUDA error"):
        fails(RuntimeError("CUDA error: an illegal memory access was encountered"))


def test_stop_is_no_failure(fails) -> None:
    assert fails(Interrupted("stopped after epoch 3")) == (State.STOPPED, "stopped after epoch 3")


def test_run_that_somebody_else_is_at_is_given_back(cluster: str, tmp_path: Path) -> None:
    folder = RunStore(tmp_path).folder(RUN)
    with folder.writer():
        folder.update(status="running", writer="process 7 on elsewhere")
        assert do("train", tmp_path) == (State.WAITING, "process 7 on elsewhere is at it")
    assert folder.status() == "interrupted"


def test_look_at_a_run_does_not_make_it_somebody_elses(cluster: str, tmp_path: Path) -> None:
    looks = threading.Event()

    def look() -> None:
        with RunStore(tmp_path).folder(RUN).writer():
            looks.set()
            time.sleep(0.3)

    looker = threading.Thread(target=look)
    looker.start()
    assert looks.wait(10)
    state, reason = do("train", tmp_path)
    looker.join()
    assert state is State.FAILED and "no-data-here" not in reason, (
        "the queue is missing here: it got as far as a report"
    )
