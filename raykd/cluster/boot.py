"""A private Ray cluster for one Slurm job: starts it, runs the experiment on it, takes it down.

    python -m raykd.cluster.boot -- experiments/distill_cnn.py [ARGS...]     (slurm/ray_cluster.slurm does)

Without an experiment the cluster is kept for those that are sent to it (serve.py).

Exit code: the experiment's own; 2 for a mistake in what was asked, 1 when Ray is lost, 75 when Ray does not start and
when the job is interrupted: by SIGTERM, by SIGUSR2 (the warning before the time limit) or by SIGTERM to the job's steps
(preemption with a grace time). After a warning or a preemption the job requeues itself.
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
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from raykd.cluster import progress_record
from raykd.cluster.driver import Signals, exit_code, run_driver
from raykd.cluster.job_details import differences, read_details
from raykd.cluster.job_folder import JobFolder, job_folder
from raykd.cluster.ports import find_ports
from raykd.cluster.preemption import StepWatch, preempt_mode, save_time_s
from raykd.cluster.progress_record import MAX_STALLED, ProgressRecord, fingerprint
from raykd.cluster.ray_cluster import Job, RayCluster
from raykd.cluster.ray_start import driver_environment, here, ray_environment
from raykd.cluster.ray_variables import start_timeout_s
from raykd.cluster.requeue import SCONTROL_TIMEOUT_S, max_requeues, requeue
from raykd.cluster.slurm import Allocation, hostnames, read_allocation
from raykd.cluster.slurm_job import running_job
from raykd.cluster.staging import Staging, planned_staging
from raykd.cluster.submissions import experiment_command
from raykd.errors import ConfigError, Interrupted, RaykdError

MAX_RAY_RESTARTS = 3  # in one job, after the loss of an agent


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
    end, record, is_requeued = _End(), ProgressRecord(allocation.submit_dir, allocation.job_id), False
    try:
        with job_folder(allocation.job_id, environ) as folder, _staged(staging, clock):
            environment = _shared_environment(environ, folder, allocation, staging)
            job = Job(allocation, find_ports(allocation.job_id), folder, environment, start_timeout_s(environ), staging)
            with StepWatch(allocation.head, environ) as watch:
                signals.is_warned = watch.is_terminated
                _run_on_cluster(driver, job, clock, signals, end)
    except Interrupted as error:
        clock.say(str(error))
        end.code = error.exit_code
    try:
        if words and end.code == Interrupted.exit_code and (reason := _why_requeue(allocation, signals, end)):
            refusal = _refusal(record, reason, end)
            is_requeued = requeue(allocation, words, limit, refusal, clock.say)
        return end.code
    finally:
        if not is_requeued:
            record.remove()


@dataclass
class _End:
    """How the driver ended. results: the folder that it trained into, where it noted one."""

    code: int = Interrupted.exit_code
    lost_nodes: bool = False
    was_killed: bool = True  # by a signal that it did not handle, or it was never started
    results: Path | None = None


def _why_requeue(allocation: Allocation, signals: Signals, end: _End) -> str:
    """'preempted: MODE', 'time limit' or 'nodes lost' where Slurm interrupted the job; '' where a user did."""
    if signals.received and (mode := preempt_mode(allocation.job_id, SCONTROL_TIMEOUT_S)):
        return f"preempted: {mode}"
    if signal.SIGUSR2 in signals.received and not signals.has_been_warned:
        return "time limit"
    return "nodes lost" if end.lost_nodes and not signals.received else ""


def _refusal(record: ProgressRecord, reason: str, end: _End) -> str:
    """Why a job that Slurm interrupted must not be requeued, '' where it may. Records its progress until then."""
    if reason == "preempted: CANCEL":
        return "Slurm preempted it and cancels what it preempts here (PreemptMode=CANCEL)"
    saves_itself = not end.was_killed and end.results is None  # a program of the user's, whose progress is unknown
    now = fingerprint(end.results)
    stalled = 0 if reason.startswith("preempted") or saves_itself else record.stalled(now)
    record.write(now, stalled)
    if stalled < MAX_STALLED:
        return ""
    return (
        f"{stalled} restarts in a row trained no new step, since the warning before the time limit came first; "
        "submit with a longer --time, or with fewer seconds in --signal=B:USR2@120"
    )


def _run_on_cluster(driver: Sequence[str], job: Job, clock: Clock, signals: Signals, end: _End) -> None:
    """Run the driver on the job's Ray, again where Ray lost one of its agents, and write to `end` how it ended."""
    note = job.folder.path / "results"
    for left in range(MAX_RAY_RESTARTS, -1, -1):
        with RayCluster(job, clock.say) as cluster:
            address = cluster.wait_until_up(signals.check)
            environment = driver_environment(job.environment, address) | {progress_record.VARIABLE: str(note)}
            command = driver or _keeper_command(job.allocation)
            _announce(job, command, clock)
            try:
                folder, time_s = job.allocation.submit_dir, partial(save_time_s, job.allocation.job_id)
                code = run_driver(command, environment, folder, signals, cluster.failure, time_s)
            except RaykdError as error:
                if not left or signals.received or not cluster.was_ended_by_agent():
                    raise
                clock.say(f"Ray lost its agent ({str(error).partition(chr(10))[0]}); starting Ray again")
                continue
            end.was_killed = code < 0
            end.code = exit_code(code, cut_off=bool(signals.received))
            end.lost_nodes, end.results = bool(cluster.lost), progress_record.noted_results(note)
            clock.say(f"driver ended {{after}} with exit code {end.code}")
            break
    clock.say("Ray down {after}")


def _announce(job: Job, driver: Sequence[str], clock: Clock) -> None:
    """Record where the dashboard and the token are, for commands that come later, and print it."""
    ports, folder = job.ports, job.folder
    submit_dir = str(job.allocation.submit_dir)
    folder.write_facts(dashboard=ports.dashboard, token=str(folder.token_path), submit_dir=submit_dir)
    clock.say(f"dashboard at http://127.0.0.1:{ports.dashboard} there, token in {folder.token_path}")
    clock.say(f"driver starts {{after}}: {shlex.join(driver)}")


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


def _keeper_command(allocation: Allocation) -> list[str]:
    """What runs where no experiment was named. Logs of those that come lie beside the job's own; a requeue's, too."""
    try:
        log = running_job(allocation.job_id).log
    except ConfigError:  # Slurm is busy
        log = allocation.submit_dir / f"slurm-{allocation.job_id}.out"
    again = f"-{allocation.restart_count}" if allocation.restart_count else ""
    return [*here("serve"), str(allocation.job_id), f"{log.with_suffix('')}{again}"]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
