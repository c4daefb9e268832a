"""Why a job ended, and whether it may be requeued. No Slurm, no Ray."""

import signal
from dataclasses import replace
from pathlib import Path

import pytest

from raykd.cluster import job_end
from raykd.cluster.allocation import Allocation, Node
from raykd.cluster.driver import Signals
from raykd.cluster.job_end import NOT_STARTED, JobEnd, requeue_cause, requeue_refusal
from raykd.cluster.progress_record import ProgressRecord

ALLOCATION = Allocation(7, (Node("cn1", 1, 0, None),), Path("/repository"), 1, "7")


def interrupted(*numbers: signal.Signals) -> Signals:
    signals = Signals()
    signals.received = list(numbers)
    return signals


@pytest.fixture
def mode(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace Slurm's answer: the returned list has the mode of preemption as its last item, '' for no preemption."""
    answers = [""]
    monkeypatch.setattr(job_end, "preempt_mode", lambda *_: answers[-1])
    return answers


@pytest.mark.parametrize(
    ("numbers", "is_warned", "has_lost_nodes", "cause"),
    [
        ([signal.SIGUSR2], False, False, "time limit"),
        ([signal.SIGTERM, signal.SIGUSR2], False, True, "time limit"),
        ([signal.SIGUSR2], True, True, ""),  # Slurm signaled the steps, but does not preempt: the user did
        ([signal.SIGTERM], False, True, ""),  # scancel
        ([], False, True, "nodes lost"),
        ([], False, False, ""),
    ],
)
def test_only_the_time_limit_and_lost_nodes_requeue_a_job_that_is_not_preempted(
    mode: list[str], numbers: list[signal.Signals], is_warned: bool, has_lost_nodes: bool, cause: str
) -> None:
    signals = interrupted(*numbers)
    signals.has_been_warned = is_warned
    assert requeue_cause(ALLOCATION, signals, JobEnd(has_lost_nodes=has_lost_nodes)) == cause


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_preemption_is_the_cause_of_any_signal_but_not_of_an_end_without_one(
    mode: list[str], number: signal.Signals
) -> None:
    mode.append("CANCEL")
    assert requeue_cause(ALLOCATION, interrupted(number), JobEnd()) == "preempted: CANCEL"
    assert requeue_cause(ALLOCATION, interrupted(), JobEnd()) == ""


def test_a_job_that_slurm_cancels_after_preemption_is_not_requeued(tmp_path: Path) -> None:
    refusal = requeue_refusal(ProgressRecord(tmp_path, 7), "preempted: CANCEL", JobEnd())
    assert refusal == "Slurm preempted it and cancels preempted jobs here (PreemptMode=CANCEL)"


def test_a_program_that_saves_by_itself_is_requeued_without_a_look_at_its_progress(tmp_path: Path) -> None:
    record = ProgressRecord(tmp_path, 7)
    assert [requeue_refusal(record, "time limit", JobEnd(was_killed=False)) for _ in range(4)] == [""] * 4
    refusals = [requeue_refusal(record, "time limit", JobEnd(was_killed=True)) for _ in range(4)]
    assert "trained no new step, because the signal before the time limit came first" in refusals[-1]


def test_a_restarted_job_whose_ray_does_not_start_is_requeued_twice(tmp_path: Path) -> None:
    """A node with a full disk would otherwise end a chain of requeues."""
    end, record = JobEnd(has_not_started=True), ProgressRecord(tmp_path, 7)
    cause = requeue_cause(ALLOCATION, interrupted(), end)
    assert cause == NOT_STARTED and requeue_cause(replace(ALLOCATION, restart_count=0), interrupted(), end) == ""
    assert requeue_refusal(record, cause, end) == ""
    assert requeue_refusal(record, cause, end) == "2 restarts in a row trained no new step"


def test_a_node_on_which_ray_does_not_start_keeps_the_progress_of_the_restart_before(tmp_path: Path) -> None:
    (tmp_path / "results" / "run").mkdir(parents=True)
    (tmp_path / "results" / "run" / "test.json").touch()
    record, trained = ProgressRecord(tmp_path, 7), JobEnd(results=tmp_path / "results")
    assert [requeue_refusal(record, "time limit", trained) for _ in range(2)] == ["", ""]
    refusal = requeue_refusal(record, NOT_STARTED, JobEnd(has_not_started=True))
    assert refusal == "2 restarts in a row trained no new step"


def test_a_preempted_job_does_not_look_into_its_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slurm waits for it for few seconds, and a results folder may have 100,000 files."""
    monkeypatch.setattr(job_end, "progress_digest", lambda _: 1 / 0)
    end = JobEnd(results=tmp_path)
    assert [requeue_refusal(ProgressRecord(tmp_path, 7), "preempted: REQUEUE", end) for _ in range(4)] == [""] * 4
    with pytest.raises(ZeroDivisionError):
        requeue_refusal(ProgressRecord(tmp_path, 7), "time limit", end)
