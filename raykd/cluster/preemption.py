"""How Slurm preempts a job, and the notice that it gives.

With a grace time Slurm sends SIGCONT and SIGTERM to the job's steps and not to its batch script, and at the end of the
grace time, and for `scancel` and `scontrol requeue`, to every process of the job. KillWait later it kills them. The
batch script notices the first of these by a step of its own that does nothing.
"""

import re
import subprocess
from collections.abc import Mapping
from contextlib import suppress

from raykd.cluster.ray_process import STOP_TIMEOUT_S, stop
from raykd.cluster.ray_start import srun
from raykd.cluster.slurm import Node, without_step_requests
from raykd.cluster.slurm_job import ask, show_job
from raykd.cluster.subreaper import END_SIGNAL
from raykd.errors import ConfigError

TERMINATED = 128 + 15  # how srun reports a step that SIGTERM ended
KILL_WAIT_S = 30.0  # Slurm's default
TEARDOWN_S = 3.0  # ending Ray and removing the job's folder
ANSWER_S = 5.0  # slurmctld has to answer while Slurm waits


class StepWatch:
    """A step on the batch script's node that ends when Slurm sends SIGTERM to the job's steps."""

    def __init__(self, node: Node, environment: Mapping[str, str]) -> None:
        command = [*srun(node, "raykd-signals", whole=False), "sleep", "infinity"]
        null = subprocess.DEVNULL
        environment = without_step_requests(environment)
        self._step = subprocess.Popen(command, env=environment, stdin=null, stdout=null, stderr=null)

    def __enter__(self) -> "StepWatch":
        return self

    def __exit__(self, *_: object) -> None:
        if self._step.poll() is None:
            self._step.send_signal(END_SIGNAL)
            with suppress(subprocess.TimeoutExpired):
                self._step.wait(TEARDOWN_S)
        stop(self._step, STOP_TIMEOUT_S)

    def is_terminated(self) -> bool:
        """Whether SIGTERM came. A step that ends in any other way says nothing."""
        return self._step.poll() == TERMINATED


def preempt_mode(job_id: int, timeout_s: float = ANSWER_S) -> str:
    """'REQUEUE' or 'CANCEL' where job `job_id` runs and is being preempted, '' where it is not."""
    try:
        job = show_job(job_id, timeout_s)
        if job.get("JobState") != "RUNNING" or job.get("PreemptTime", "None") in ("None", "N/A", ""):
            return ""
        return "CANCEL" if "CANCEL" in _configured_mode(job) else "REQUEUE"
    except ConfigError:  # Slurm is busy
        return ""


def _configured_mode(job: Mapping[str, str]) -> str:
    """PreemptMode of the job's QOS or partition, whichever decides on this cluster."""
    if "preempt/qos" in ask(["scontrol", "show", "config"], ANSWER_S):
        words = ["sacctmgr", "--noheader", "--parsable2", "show", "qos", job.get("QOS", ""), "format=PreemptMode"]
        mode = ask(words, ANSWER_S).strip().upper()
        if mode not in ("", "CLUSTER"):
            return mode
        return _field("PreemptMode", ask(["scontrol", "show", "config"], ANSWER_S))
    return _field("PreemptMode", ask(["scontrol", "show", "partition", job.get("Partition", "")], ANSWER_S))


def save_time_s(job_id: int) -> float:
    """How long the driver may take after SIGTERM: the grace time where the job is preempted, else Slurm's KillWait."""
    if preempt_mode(job_id):
        return float("inf")  # SIGTERM comes once more at its end
    try:
        wait = re.match(r"\d+", _field("KillWait", ask(["scontrol", "show", "config"], ANSWER_S)))
    except ConfigError:
        wait = None
    return max((float(wait[0]) if wait else KILL_WAIT_S) - TEARDOWN_S, TEARDOWN_S)


def _field(name: str, text: str) -> str:
    found = re.search(rf"\b{name}\s*=\s*(\S+)", text)
    return found[1].upper() if found else ""
