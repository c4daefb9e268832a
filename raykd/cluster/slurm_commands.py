"""Slurm's commands, and what they print about a job. They run on any machine of the cluster."""

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from raykd.disk.lookup import is_file
from raykd.errors import ConfigError

TIMEOUT_S = 60
SCRIPT = "slurm/ray_cluster.slurm"


class SlurmError(ConfigError):
    """One of Slurm's commands is missing, failed or timed out. The message is its reason, without a remedy."""


def slurm_output(command: Sequence[str], timeout_s: float = TIMEOUT_S) -> str:
    """Return the output of one of Slurm's commands. Raises SlurmError with the last line of its errors."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SlurmError(str(error)) from None
    if done.returncode:
        reason = done.stderr.strip().rpartition("\n")[2]
        raise SlurmError(reason or f"{command[0]} ended with exit code {done.returncode}")
    return done.stdout


def field_in(text: str, name: str) -> str:
    """Return the value of a field, without spaces, in the output of one of Slurm's commands; '' if it is missing."""
    match = re.search(rf"\b{name} *= *(\S+)", text)
    return match[1] if match else ""


def hostnames(nodelist: str) -> list[str]:
    """Expand a list such as 'cn[1-2,7]', the batch script's node first. Raises ConfigError if scontrol fails."""
    try:
        return slurm_output(["scontrol", "show", "hostnames", nodelist]).split()
    except SlurmError as error:
        raise ConfigError(
            f"SLURM_JOB_NODELIST = {nodelist}: scontrol cannot expand it ({error}); check that scontrol is on PATH"
        ) from None


@dataclass(frozen=True)
class RunningJob:
    """A job that is running.

    head: the node of the batch script. folder: the repository that the job runs. log: the job's output file.
    """

    job_id: int
    head: str
    folder: Path
    log: Path


def running_job(job_id: int) -> RunningJob:
    """Return where a job runs. Raises ConfigError if there is no such job, or it is not running."""
    fields = show_job(str(job_id))
    if (state := fields.get("JobState", "unknown")) != "RUNNING":
        raise ConfigError(f"job {job_id} is {state.lower()}: its Ray cluster is up only while the job is running")
    if missing := [name for name in ("BatchHost", "WorkDir", "StdOut") if name not in fields]:
        raise ConfigError(f"job {job_id} has no {missing[0]}: it was not submitted with sbatch {SCRIPT}")
    folder = Path(fields["WorkDir"])  # if sbatch had another --chdir, the script is in another folder
    root, is_script, _ = fields.get("Command", "").partition(f"/{SCRIPT}")
    if is_script and not is_file(folder / SCRIPT):
        folder = Path(root)
    return RunningJob(job_id, fields["BatchHost"], folder, Path(fields["StdOut"]))


def only_job() -> int:
    """Return the id of the user's one running job of the batch script. Raises ConfigError if there is none, or several.

    The job may have any name (sbatch --job-name).
    """
    command = ["squeue", "--me", "--noheader", "--states=RUNNING", "--format=%i|%o"]
    try:
        lines = [line.partition("|") for line in slurm_output(command).splitlines()]
    except SlurmError as error:
        raise ConfigError(f"Slurm cannot list your jobs ({error}); run this on a machine of the cluster") from None
    job_ids = [
        job for job, _, script in lines if job.isdecimal() and SCRIPT in script
    ]  # a task of an array (7_1) is no job of raykd's
    if len(job_ids) != 1:
        state = f"several raykd jobs are running ({', '.join(job_ids)})" if job_ids else "no raykd job is running"
        raise ConfigError(f"{state}; name one with --job JOBID ('squeue --me' lists them)")
    return int(job_ids[0])


def show_job(slurm_id: str, timeout_s: float = TIMEOUT_S) -> dict[str, str]:
    """Return all fields that `scontrol show job` prints; values may contain spaces.

    Raises ConfigError if Slurm returns no record of the job.
    """
    try:
        text = slurm_output(["scontrol", "show", "job", "--oneliner", slurm_id], timeout_s)
    except SlurmError as error:
        raise ConfigError(
            f"job {slurm_id}: Slurm returned no record of it ({error}); run this on a machine of the cluster, with the "
            "id of a job of yours"
        ) from None
    return dict(re.findall(r"(\S+?)=(.*?)(?=\s+[A-Za-z][\w/:]*=|\s*$)", text.strip()))
