"""How Slurm preempts a job, and how the batch script detects it.

With a grace time Slurm sends SIGCONT and SIGTERM to the job's steps, but not to its batch script. At the end of the
grace time, and for `scancel` and `scontrol requeue`, it sends them to every process of the job; KillWait later it kills
them. The batch script runs an idle step in order to detect the first of these signals.
"""

import re
import subprocess
from collections.abc import Mapping

from raykd.cluster.allocation import Node, without_step_requests
from raykd.cluster.ray_process import stop
from raykd.cluster.ray_start import srun
from raykd.cluster.slurm_commands import SlurmError, field_in, show_job, slurm_output
from raykd.errors import ConfigError

TERMINATED = 128 + 15  # srun's exit code for a step that SIGTERM ended
KILL_WAIT_S = 30.0  # Slurm's default
TEARDOWN_S = 3.0  # ending Ray and removing the job's folder
UNKNOWN = "unknown"
ANSWER_S = 5.0  # slurmctld has to answer while Slurm waits for the job


class StepWatch:
    """An idle step on the batch script's node. It ends when Slurm sends SIGTERM to the job's steps.

    At the end its input is closed, so that it ends with exit code 0: a signal would be the DerivedExitCode of the job.
    """

    def __init__(self, node: Node, environment: Mapping[str, str]) -> None:
        command = [*srun(node, "raykd-signals", whole=False), "cat"]
        pipe, null = subprocess.PIPE, subprocess.DEVNULL
        environment = without_step_requests(environment)
        self._step = subprocess.Popen(command, env=environment, stdin=pipe, stdout=null, stderr=null)

    def __enter__(self) -> "StepWatch":
        return self

    def __exit__(self, *_: object) -> None:
        assert self._step.stdin is not None
        self._step.stdin.close()
        try:
            self._step.wait(TEARDOWN_S)
        except subprocess.TimeoutExpired:
            stop(self._step, TEARDOWN_S)

    def is_terminated(self) -> bool:
        """Return whether SIGTERM ended the step. Any other end is ignored."""
        return self._step.poll() == TERMINATED


def preempt_mode(slurm_id: str, timeout_s: float = ANSWER_S) -> str:
    """Return 'REQUEUE', 'CANCEL' or UNKNOWN if the job is running and being preempted, otherwise ''.

    The mode is unknown if the node cannot read it: many have no sacctmgr, or cannot reach Slurm's database.
    """
    try:
        job = show_job(slurm_id, timeout_s)
    except ConfigError:  # Slurm is busy
        return ""
    if job.get("JobState") != "RUNNING" or job.get("PreemptTime", "None") in ("None", "N/A", ""):
        return ""
    try:
        return "CANCEL" if "CANCEL" in _configured_mode(job) else "REQUEUE"
    except SlurmError:
        return UNKNOWN


def _configured_mode(job: Mapping[str, str]) -> str:
    """Return the PreemptMode of the job's QOS or partition, whichever applies on this cluster."""
    if "preempt/qos" in _configuration():
        command = ["sacctmgr", "--noheader", "--parsable2", "show", "qos", job.get("QOS", ""), "format=PreemptMode"]
        mode = slurm_output(command, ANSWER_S).strip().upper()
        return mode if mode not in ("", "CLUSTER") else field_in(_configuration(), "PreemptMode").upper()
    partition = slurm_output(["scontrol", "show", "partition", job.get("Partition", "")], ANSWER_S)
    return field_in(partition, "PreemptMode").upper()


def save_time_s(slurm_id: str) -> float:
    """Return how long the driver may save after SIGTERM: the grace time of a preemption, otherwise Slurm's KillWait."""
    if preempt_mode(slurm_id):
        return float("inf")  # Slurm sends SIGTERM again at the end of the grace time
    try:
        wait = re.match(r"\d+", field_in(_configuration(), "KillWait"))
    except ConfigError:
        wait = None
    return max((float(wait[0]) if wait else KILL_WAIT_S) - TEARDOWN_S, TEARDOWN_S)


def _configuration() -> str:
    return slurm_output(["scontrol", "show", "config"], ANSWER_S)
