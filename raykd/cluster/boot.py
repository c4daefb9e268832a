"""A private Ray cluster for one Slurm job: starts it, runs the experiment on it, takes it down.

    python -m raykd.cluster.boot -- experiments/distill_cnn.py [ARGS...]     (slurm/ray_cluster.slurm does)

Without an experiment the cluster is kept for those that are sent to it (keeper.py).

Exit code: the experiment's own; 2 for a mistake in what was asked, 1 when Ray fails, 75 when cut off by SIGTERM or
SIGUSR2, the warning before the time limit, after which the job requeues itself.
Imports neither ray nor torch, so that the first line is printed at once.
"""

import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from raykd.cluster.driver import Signals, run_driver
from raykd.cluster.experiment_command import experiment_command
from raykd.cluster.folder import JobFolder, job_folder
from raykd.cluster.job_details import differences, read_details
from raykd.cluster.ports import find_ports
from raykd.cluster.ray_cluster import Job, RayCluster
from raykd.cluster.ray_start import driver_environment, here, ray_environment
from raykd.cluster.requeue import max_requeues, requeue
from raykd.cluster.slurm import Allocation, hostnames, read_allocation
from raykd.cluster.slurm_job import running_job
from raykd.cluster.staging import Staging, planned_staging
from raykd.errors import ConfigError, Interrupted, RaykdError

START_TIMEOUT_S = "180"  # 4 s on a local disk; a cold venv on a busy shared filesystem takes minutes


class Clock:
    """Seconds since the batch script's first line (RAYKD_JOB_START, seconds since 1970), for status lines."""

    def __init__(self, environ: Mapping[str, str]):
        self._start = float(environ.get("RAYKD_JOB_START") or time.time())

    def say(self, text: str) -> None:
        """Print a line; '{after}' in it becomes 'after 8.1 s'."""
        after = f"after {time.time() - self._start:.1f} s"
        print(f"raykd: {text.replace('{after}', after)}", flush=True)


def main(words: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run the experiment that `words` name and return the job's exit code. Prints an error as one line."""
    clock = Clock(environ)
    try:
        with Signals() as signals:
            return _boot(list(words[1:] if words and words[0] == "--" else words), environ, clock, signals)
    except RaykdError as error:
        print(f"raykd: {error}", file=sys.stderr, flush=True)
        return error.exit_code


def _boot(words: Sequence[str], environ: Mapping[str, str], clock: Clock, signals: Signals) -> int:
    details = read_details(environ.get("SLURM_JOB_ID", ""), hostnames)
    allocation, limit = read_allocation(environ, details=details), max_requeues(environ)
    staging = planned_staging(allocation, environ, with_code=bool(words))
    driver = experiment_command(words, allocation.submit_dir) if words else []
    for program in ("srun", "scontrol", "ray"):
        if shutil.which(program, path=environ.get("PATH")) is None:
            raise ConfigError(f"no '{program}' on PATH; RAYKD_VENV and the modules are set in slurm/site.sh")
    restarts = f", restart {allocation.restart_count}" if allocation.restart_count else ""
    nodes = ", ".join(str(node) for node in allocation.nodes)
    clock.say(f"job {allocation.job_id} on {nodes}{restarts}: starting Ray")
    if details is not None and (head := allocation.head).name in details.shares:
        for difference in differences(details, environ, head.name, head.num_cpus):
            clock.say(f"caution: {difference}")
    try:
        with job_folder(allocation.job_id, environ) as folder, _staged(staging, clock):
            environment = _shared_environment(environ, folder, allocation, staging)
            job = Job(allocation, find_ports(allocation.job_id), folder, environment, start_timeout_s(environ), staging)
            code, lost = _run_on_cluster(driver, job, clock, signals)
    except Interrupted as error:
        clock.say(str(error))
        code, lost = error.exit_code, False
    by_slurm = signal.SIGUSR2 in signals.received or (lost and not signals.received)  # SIGTERM is somebody's wish
    if words and code == Interrupted.exit_code and by_slurm:
        requeue(allocation, words, limit, clock.say)
    return code


def _run_on_cluster(driver: Sequence[str], job: Job, clock: Clock, signals: Signals) -> tuple[int, bool]:
    """The driver's exit code, and whether nodes were lost under it."""
    allocation, ports, folder = job.allocation, job.ports, job.folder
    with RayCluster(job, clock.say) as cluster:
        address = cluster.wait_until_up(signals.check)
        folder.write_facts(
            dashboard=ports.dashboard, token=str(folder.token_path), submit_dir=str(allocation.submit_dir)
        )
        clock.say(f"dashboard at http://127.0.0.1:{ports.dashboard} there, token in {folder.token_path}")
        driver = driver or _keeper_command(allocation)
        clock.say(f"driver starts {{after}}: {shlex.join(driver)}")
        environment = driver_environment(job.environment, address)
        code = run_driver(driver, environment, allocation.submit_dir, signals, cluster.failure)
        clock.say(f"driver ended {{after}} with exit code {code}")
    clock.say("Ray down {after}")
    return code, bool(cluster.lost)


@contextmanager
def _staged(staging: Staging | None, clock: Clock) -> Iterator[None]:
    if staging is None:
        yield
        return
    with staging.filled() as megabytes:
        clock.say(f"{staging} ({megabytes:.1f} MB) staged to {staging.folder} {{after}}")
        yield


def _shared_environment(
    environ: Mapping[str, str], folder: JobFolder, allocation: Allocation, staging: Staging | None
) -> dict[str, str]:
    several = bool(allocation.others)
    code, data = (staging.code_path, staging.data_path) if staging else (None, None)
    return ray_environment(environ, folder, code or allocation.submit_dir, several, data)


def start_timeout_s(environ: Mapping[str, str]) -> float:
    """RAYKD_START_TIMEOUT_S, 180 unless set. Raises: ConfigError when it is no number of seconds."""
    text = environ.get("RAYKD_START_TIMEOUT_S") or START_TIMEOUT_S
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"RAYKD_START_TIMEOUT_S is '{text}': expected seconds, such as 180") from None


def _keeper_command(allocation: Allocation) -> list[str]:
    """What runs where no experiment was named. Logs of those that come lie beside the job's own; a requeue's, too."""
    try:
        log = running_job(allocation.job_id).log
    except ConfigError:  # Slurm is busy
        log = allocation.submit_dir / f"slurm-{allocation.job_id}.out"
    again = f"-{allocation.restart_count}" if allocation.restart_count else ""
    return [*here("keeper"), str(allocation.job_id), f"{log.with_suffix('')}{again}"]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
