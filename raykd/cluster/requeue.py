"""Requeueing: an interrupted job returns to Slurm's queue under the same id and resumes from its files."""

import re
import shlex
import signal
import time
from collections.abc import Callable, Mapping, Sequence

from raykd.cluster.allocation import Allocation
from raykd.cluster.slurm_commands import SCRIPT, SlurmError, slurm_output
from raykd.errors import ConfigError, plural

MAX_REQUEUES = "100"  # 100 days for jobs of one day; a job without progress must end eventually
SIGTERM_WAIT_S = 60  # how long to wait for Slurm's SIGTERM after the requeue
BUSY_S = 30  # how long a request is repeated while slurmctld is busy, as when the time limits of many jobs are near
BUSY = re.compile(
    r"timed out|contact slurm controller|connect failure|zero bytes|temporarily unavailable", re.IGNORECASE
)
RETRY_S = 5
LINGER_S = 2  # a node refuses to start a job again within the second in which it ended the job


def max_requeues(environ: Mapping[str, str]) -> int:
    """Return RAYKD_MAX_REQUEUES, by default 100; 0 disables requeueing. Raises ConfigError for other values."""
    text = environ.get("RAYKD_MAX_REQUEUES") or MAX_REQUEUES
    if not text.isdecimal():
        raise ConfigError(f"RAYKD_MAX_REQUEUES = '{text}': must be an integer; 0 disables requeueing")
    return int(text)


def resume_command(allocation: Allocation, experiment: Sequence[str]) -> str:
    """Return the shell command that resubmits the job. experiment: its file and arguments, as submitted."""
    return f"cd {shlex.quote(str(allocation.submit_dir))} && {shlex.join(['sbatch', SCRIPT, *experiment])}"


def requeue(
    allocation: Allocation,
    resume: str,
    limit: int,
    refusal: str,
    log: Callable[[str], None],
    may_be_cancelled: bool = False,
) -> bool:
    """Have Slurm requeue this job and wait for its SIGTERM, or print the command that resubmits the job.

    resume: that command. limit: how often a job may be requeued. refusal: why the job must not be requeued, or ''.
    may_be_cancelled: whether Slurm may cancel the job nevertheless. Return whether the job is requeued.
    """
    job_id, reason = allocation.slurm_id, refusal
    if not reason and allocation.restart_count >= limit:
        often = f"it was requeued {plural(allocation.restart_count, 'time')} (RAYKD_MAX_REQUEUES)"
        reason = often if limit else "RAYKD_MAX_REQUEUES = 0 disables requeueing"
    try:
        if not reason and "Requeue=1" not in _answer("show", "job", "--oneliner", job_id).split():
            reason = "requeueing is disabled for this job or on this cluster (sbatch --requeue enables it)"
        if not reason:
            log(f"interrupted: requeueing job {job_id}, which resumes by itself; follow it with: squeue -j {job_id}")
            if may_be_cancelled:
                log(f"this node cannot read the mode of preemption; if Slurm cancels the job, resume with: {resume}")
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # Slurm ends this script; everything is saved
            _answer("requeue", job_id)
            signal.sigtimedwait([signal.SIGTERM], SIGTERM_WAIT_S)
            time.sleep(LINGER_S)
            return True
    except SlurmError as error:
        reason = str(error)
    log(f"interrupted and not requeued: {reason}; to resume: {resume}")
    return False


def _answer(*arguments: str) -> str:
    """Return the output of scontrol, repeated for BUSY_S while slurmctld is busy. Raises SlurmError.

    A request that is repeated may have been carried out although its answer was late. If SIGTERM comes, it was.
    """
    deadline = time.monotonic() + BUSY_S
    while True:
        try:
            return slurm_output(["scontrol", *arguments])
        except SlurmError as error:
            if not BUSY.search(str(error)) or time.monotonic() > deadline:
                raise
        if signal.SIGTERM in signal.sigpending():
            return ""
        time.sleep(RETRY_S)
