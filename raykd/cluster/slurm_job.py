"""A job as Slurm's own commands show it, from any machine of the cluster."""

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from raykd.errors import ConfigError

TIMEOUT_S = 60
SCRIPT = "slurm/ray_cluster.slurm"
JOB_NAME = "raykd"  # the script's #SBATCH line


@dataclass(frozen=True)
class RunningJob:
    """head: the node of the batch script. folder: the repository that it runs. log: the job's output file."""

    job_id: int
    head: str
    folder: Path
    log: Path


def running_job(job_id: int) -> RunningJob:
    """Raises: ConfigError when there is no such job, or it does not run."""
    fields = show_job(job_id)
    if (state := fields.get("JobState", "unknown")) != "RUNNING":
        raise ConfigError(f"job {job_id} is {state.lower()}: only a running one has a Ray")
    if missing := [name for name in ("BatchHost", "WorkDir", "StdOut") if name not in fields]:
        raise ConfigError(f"job {job_id} has no {missing[0]}: it was not started by sbatch {SCRIPT}")
    return RunningJob(job_id, fields["BatchHost"], _repository(fields), Path(fields["StdOut"]))


def _repository(fields: dict[str, str]) -> Path:
    """The folder of the batch script, where sbatch's --chdir names another folder than the repository."""
    working, of_script = Path(fields["WorkDir"]), fields.get("Command", "").partition(f"/{SCRIPT}")
    if of_script[1] and not (working / SCRIPT).is_file():
        return Path(of_script[0])
    return working


def only_job() -> int:
    """The user's one running job of raykd's. Raises: ConfigError when there is none, or several."""
    words = ["squeue", "--me", "--noheader", "--states=RUNNING", f"--name={JOB_NAME}", "--format=%i"]
    found = [word for word in ask(words).split() if word.isdecimal()]  # of an array's tasks none is raykd's
    if len(found) != 1:
        which = f"several jobs of raykd's run ({', '.join(found)})" if found else "no job of raykd's runs"
        raise ConfigError(f"{which}; name one with --job JOBID ('squeue --me' lists them)")
    return int(found[0])


def show_job(job_id: int, timeout_s: float = TIMEOUT_S) -> dict[str, str]:
    """Every field that `scontrol show job` prints; a value may hold spaces. Raises: ConfigError without the job."""
    text = ask(["scontrol", "show", "job", "--oneliner", str(job_id)], timeout_s)
    return dict(re.findall(r"(\S+?)=(.*?)(?=\s+[A-Za-z][\w/:]*=|\s*$)", text.strip()))


def ask(words: Sequence[str], timeout_s: float = TIMEOUT_S) -> str:
    """The output of one of Slurm's commands. Raises: ConfigError when it fails or does not answer in time."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=timeout_s, check=False)
        if done.returncode == 0:
            return done.stdout
        why = done.stderr.strip().rpartition("\n")[2]
    except (OSError, subprocess.TimeoutExpired) as error:
        why = str(error)
    raise ConfigError(f"Slurm does not tell of that job ({why}); is this a machine of the cluster, and the job yours?")
