"""How a job ended, and whether Slurm should start it again."""

import signal
from dataclasses import dataclass
from pathlib import Path

from raykd.cluster.allocation import Allocation
from raykd.cluster.driver import Signals
from raykd.cluster.preemption import preempt_mode
from raykd.cluster.progress_record import MAX_STALLED, ProgressRecord, progress_digest
from raykd.errors import ConfigError, Interrupted

MODE_TIMEOUT_S = 60
NOT_STARTED = "Ray not started"


@dataclass
class JobEnd:
    """How the driver ended. results: the folder that it trained into, if it noted one."""

    code: int = Interrupted.exit_code
    has_lost_nodes: bool = False
    has_kept_logs: bool = False
    was_started: bool = False
    has_not_started: bool = False  # whether Ray did not start
    was_killed: bool = True  # whether a signal that it did not handle ended it, or it was never started
    results: Path | None = None

    def is_failure(self, code: int) -> bool:
        """Whether Ray's logs may explain the exit code `code`."""
        is_expected = code in (0, ConfigError.exit_code, Interrupted.exit_code) and self.was_started
        return self.has_lost_nodes or not is_expected


def requeue_cause(allocation: Allocation, signals: Signals, end: JobEnd) -> str:
    """Return the reason to requeue the job: 'preempted: MODE', 'time limit', 'nodes lost' or NOT_STARTED.

    Return '' if the user interrupted the job, or if Ray does not start in the job's first run.
    """
    if signals.received and (mode := preempt_mode(allocation.slurm_id, MODE_TIMEOUT_S)):
        return f"preempted: {mode}"
    if signal.SIGUSR2 in signals.received and not signals.has_been_warned:
        return "time limit"
    if signals.received:
        return ""
    if end.has_not_started:  # a restarted job has started Ray before, so another node may start it
        return NOT_STARTED if allocation.restart_count else ""
    return "nodes lost" if end.has_lost_nodes else ""


def requeue_refusal(record: ProgressRecord, cause: str, end: JobEnd) -> str:
    """Return why a job that Slurm interrupted must not be requeued, or ''. Record its progress.

    The progress of a preempted job is not recorded: Slurm waits for the job, so there is no time to read its results.
    """
    if cause == "preempted: CANCEL":
        return "Slurm preempted it and cancels preempted jobs here (PreemptMode=CANCEL)"
    if cause.startswith("preempted"):
        return ""
    saves_by_itself = not end.was_killed and end.results is None  # the user's program, whose progress is unknown
    progress = None if end.has_not_started else progress_digest(end.results)
    num_stalled = 0 if saves_by_itself else record.num_stalled(progress)
    record.write(progress, num_stalled)
    if num_stalled < MAX_STALLED:
        return ""
    if end.has_not_started:
        return f"{num_stalled} restarts in a row trained no new step"
    return (
        f"{num_stalled} restarts in a row trained no new step, because the signal before the time limit came first; "
        "submit with a longer --time, or with fewer seconds in --signal=B:USR2@120"
    )
