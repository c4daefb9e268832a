"""A job that was cut off before its time limit goes back into the queue, under its id, and goes on from its files."""

import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence

from raykd.cluster.slurm import Allocation
from raykd.cluster.slurm_job import SCRIPT
from raykd.errors import ConfigError

MAX_REQUEUES = "100"  # of a day each; a job that gets nowhere must end some time
SCONTROL_TIMEOUT_S = 60
END_S = 60
LINGER_S = 2  # a node refuses to start a job again within the second in which it has ended it


def max_requeues(environ: Mapping[str, str]) -> int:
    """RAYKD_MAX_REQUEUES, 100 unless set; 0 for never. Raises: ConfigError when it is no whole number."""
    text = environ.get("RAYKD_MAX_REQUEUES") or MAX_REQUEUES
    if not text.isdecimal():
        raise ConfigError(f"RAYKD_MAX_REQUEUES is '{text}': expected a whole number, 0 for never")
    return int(text)


def requeue(allocation: Allocation, words: Sequence[str], limit: int, refusal: str, say: Callable[[str], None]) -> bool:
    """Ask Slurm to run this job again, and wait to be ended by it; where that cannot be, print the command to type.

    words: the experiment and its arguments, as they were submitted. limit: how often a job may be requeued.
    refusal: why the job must not be requeued, '' where it may. Returns whether Slurm runs the job again.
    """
    job_id = str(allocation.job_id)
    why = refusal
    if not why and allocation.restart_count >= limit:
        why = f"it was requeued {allocation.restart_count} times (RAYKD_MAX_REQUEUES)"
    if not why:
        why = _refusal(["show", "job", "--oneliner", job_id], wanted="Requeue=1")
    if not why:
        say(f"cut off: requeueing job {job_id}, which goes on where it stopped; follow it with: squeue -j {job_id}")
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # Slurm ends this script, which has saved everything
        why = _refusal(["requeue", job_id])
        if not why:
            signal.sigtimedwait([signal.SIGTERM], END_S)
            time.sleep(LINGER_S)
            return True
    line = shlex.join(["sbatch", SCRIPT, *words])
    say(f"cut off and not requeued: {why}; to go on: cd {shlex.quote(str(allocation.submit_dir))} && {line}")
    return False


def _refusal(words: Sequence[str], wanted: str = "") -> str:
    """Why `scontrol WORDS` did not do or say what is `wanted`; '' when it did."""
    try:
        done = subprocess.run(
            ["scontrol", *words], capture_output=True, text=True, timeout=SCONTROL_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"scontrol does not answer ({error})"
    if done.returncode:
        return done.stderr.strip() or f"scontrol ended with {done.returncode}"
    if wanted and wanted not in done.stdout.split():
        return "the job, or this cluster, allows no requeue (sbatch --requeue)"
    return ""
