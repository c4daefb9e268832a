"""Start a private Ray cluster for one Slurm job, run the experiment on it, and end it.

    python -m raykd.cluster.boot -- experiments/distill_cnn.py [ARGS...]     (called by slurm/ray_cluster.slurm)

Without an experiment, the cluster accepts the experiments that are submitted to it (serve.py).

Exit code: the experiment's; 2 for invalid arguments, configuration or files; 1 if Ray is lost; 75 if Ray does not
start or the job is interrupted: by SIGTERM, by SIGUSR2 (the signal before the time limit), or by SIGTERM to the job's
steps (preemption with a grace time). The job requeues itself after the signal before the time limit, a preemption or a
loss of nodes, and if Ray does not start after a requeue, as on a node with a full disk.

This module imports neither ray nor torch, so that the first line is printed immediately.
"""

import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path

from raykd.cluster import kept_logs, memory_events, progress_record
from raykd.cluster.allocation import Allocation, read_allocation, slurm_id_in
from raykd.cluster.container import command_of, in_container, require_container
from raykd.cluster.driver import Signals, exit_code, run_driver
from raykd.cluster.job_details import JobDetails, differences, read_details, unused_gpu
from raykd.cluster.job_end import JobEnd, requeue_cause, requeue_refusal
from raykd.cluster.job_folder import job_folder
from raykd.cluster.limits import set_limits
from raykd.cluster.lock_check import locked_file
from raykd.cluster.mps import is_requested as is_mps_requested
from raykd.cluster.node_address import head_address
from raykd.cluster.ports import find_ports
from raykd.cluster.preemption import UNKNOWN, StepWatch, save_time_s
from raykd.cluster.progress_record import ProgressRecord
from raykd.cluster.ray_cluster import ClusterConfig, RayCluster
from raykd.cluster.ray_start import (
    driver_environment,
    is_shared,
    module_command,
    physical_memory_bytes,
    ray_environment,
)
from raykd.cluster.ray_variables import pinning, start_timeout_s
from raykd.cluster.requeue import max_requeues, requeue, resume_command
from raykd.cluster.staging import Staging, planned_staging, scratch_folder
from raykd.cluster.submissions import experiment_command
from raykd.disk.lookup import is_file
from raykd.environment import shadowing
from raykd.errors import ConfigError, Interrupted, RaykdError, RayNotStarted, is_environment_error
from raykd.provenance import JOB

MAX_RAY_RESTARTS = 3  # per job, after the loss of a Ray agent
KILLS_EVERYTHING = (
    "if the job's memory is full, the kernel kills all its processes on the node (OOMKillStep in Slurm's configuration)"
)


class JobLog:
    """Status lines with the job's age since RAYKD_JOB_START, the start of the batch script in seconds since 1970."""

    def __init__(self, environ: Mapping[str, str]):
        self._start = float(environ.get("RAYKD_JOB_START") or time.time())

    def write(self, text: str) -> None:
        """Print a line in which '{after}' is replaced, such as by 'after 8.1 s'; leave it out on a full disk."""
        after = f"after {time.time() - self._start:.1f} s"
        with suppress(OSError):
            print(f"raykd: {text.replace('{after}', after)}", flush=True)


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run the experiment and its arguments and return the job's exit code. Print an error as one line."""
    experiment = arguments[1:] if arguments[:1] == ["--"] else arguments
    set_limits(environ)
    try:
        with Signals() as signals:
            return _boot(experiment, environ, JobLog(environ), signals)
    except (RaykdError, OSError) as error:
        _print_error(error)
        return error.exit_code if isinstance(error, RaykdError) else RayNotStarted.exit_code


def _boot(experiment: Sequence[str], environ: Mapping[str, str], log: JobLog, signals: Signals) -> int:
    details = read_details(slurm_id_in(environ))
    allocation, limit = read_allocation(environ, details=details), max_requeues(environ)
    record, is_requeued = ProgressRecord(allocation.submit_dir, allocation.job_id), False
    try:
        job = _Job(allocation, environ, experiment, log, signals)
        _log_start(allocation, details, environ, log)
        code = job.run()
        if experiment and code == Interrupted.exit_code:
            is_requeued = job.requeue(limit, record)
        return code
    finally:
        if not is_requeued:
            record.remove()


class _Job:
    """A job with its checked inputs. `run` starts Ray and the driver, and writes to `end` how they ended.

    experiment: its file and arguments; [] if the job accepts experiments.
    """

    def __init__(
        self,
        allocation: Allocation,
        environ: Mapping[str, str],
        experiment: Sequence[str],
        log: JobLog,
        signals: Signals,
    ) -> None:
        self.allocation, self.environ, self.experiment = allocation, environ, experiment
        self.log, self.signals, self.end = log, signals, JobEnd()
        self.staging = planned_staging(allocation, environ, with_code=bool(experiment))
        self.driver = (
            experiment_command(experiment, allocation.submit_dir) if experiment else _serve_command(allocation)
        )
        _require_programs(environ)
        self.address = head_address([node.name for node in allocation.workers], environ)
        self.kept_logs = kept_logs.path_beside(_log_of(allocation))

    def run(self) -> int:
        """Run the driver on a Ray cluster and return the job's exit code. Print errors as one line."""
        try:
            self._start_and_end_ray()
        except Interrupted as error:
            self.log.write(str(error))
            self.end.code = error.exit_code
        except (RaykdError, OSError) as error:
            _print_error(error)
            self.end.has_not_started = isinstance(error, RayNotStarted | OSError)
            self.end.code = error.exit_code if isinstance(error, RaykdError) else RayNotStarted.exit_code
        if killed := memory_events.kills():
            self.log.write(f"{self.allocation.head.name}: {killed}")
        if self.end.has_kept_logs:
            self.log.write(f"Ray's logs are in {self.kept_logs}")
        return self.end.code

    def requeue(self, limit: int, record: ProgressRecord) -> bool:
        """Requeue the interrupted job if that is possible, else log how to resume it. Return whether it is requeued."""
        cause = requeue_cause(self.allocation, self.signals, self.end)
        resume = resume_command(self.allocation, self.experiment)
        if not cause:
            self.log.write(f"interrupted; to resume: {resume}")
            return False
        reason, may_be_cancelled = requeue_refusal(record, cause, self.end), cause.endswith(UNKNOWN)
        return requeue(self.allocation, resume, limit, reason, self.log.write, may_be_cancelled)

    def _start_and_end_ray(self) -> None:
        """Make the job's folder, stage code and data, and run the driver on a Ray cluster."""
        allocation, environ = self.allocation, self.environ
        with job_folder(allocation.job_id, environ) as folder, _staged(self.staging, self.log) as staging:
            root = (staging.code_path if staging else None) or allocation.submit_dir
            shares_memory = is_shared(allocation.head, physical_memory_bytes())
            environment = ray_environment(environ, folder, root, bool(allocation.workers), staging, shares_memory)
            environment |= {kept_logs.VARIABLE: str(self.kept_logs), JOB: allocation.slurm_id}
            seen_by_all = [allocation.submit_dir, folder.path, *([staging.folder] if staging else [])]
            require_container(seen_by_all, bool(allocation.head.num_gpus), environment)
            ports, timeout_s = find_ports(allocation.job_id), start_timeout_s(environ)
            config = ClusterConfig(allocation, ports, folder, environment, timeout_s, self.address, staging)
            lock = allocation.submit_dir / f".raykd-job-{allocation.job_id}.lock"
            with (
                locked_file(lock) if allocation.workers else nullcontext({}) as variable,
                StepWatch(allocation.head, environ) as watch,
            ):
                environment |= variable
                self.signals.is_warned = watch.is_terminated
                self._run_on_clusters(config)
            self.log.write("Ray down {after}")

    def _run_on_clusters(self, config: ClusterConfig) -> None:
        """Run the driver on a Ray cluster, and on a new one if Ray lost one of its agents."""
        for restarts_left in range(MAX_RAY_RESTARTS, -1, -1):
            with RayCluster(config, self.log.write) as cluster:
                try:
                    self._drive(config, cluster)
                except RaykdError as error:
                    is_lost = self.end.was_started and not self.signals.received and cluster.was_ended_by_agent()
                    if restarts_left and is_lost:
                        reason = str(error).partition("\n")[0]
                        self.log.write(f"Ray lost its agent ({reason}); starting Ray again")
                        continue
                    self._keep_logs(config, error.exit_code)
                    raise
                self._keep_logs(config, self.end.code)
                return

    def _drive(self, config: ClusterConfig, cluster: RayCluster) -> None:
        """Wait for the Ray cluster, run the driver on it, and write to `end` how it ended."""
        allocation, note, end = self.allocation, config.folder.path / "results", self.end
        end.was_started = False
        address = cluster.wait_until_up(self.signals.check)
        environment = driver_environment(config.environment, address) | {progress_record.RESULTS_NOTE: str(note)}
        self._announce(config)
        end.was_started = True
        time_s = partial(save_time_s, allocation.slurm_id)
        driver = in_container(self.driver)
        code = run_driver(driver, environment, allocation.submit_dir, self.signals, cluster.failure, time_s)
        end.was_killed = code < 0
        end.code = exit_code(code, was_interrupted=bool(self.signals.received))
        end.has_lost_nodes, end.results = bool(cluster.lost), progress_record.read_results_note(note)
        self.log.write(f"driver ended {{after}} with exit code {end.code}")

    def _announce(self, config: ClusterConfig) -> None:
        """Record the dashboard's port and the token's path for later commands, and print both."""
        port, token_path, allocation = config.ports.dashboard, config.folder.token_path, self.allocation
        config.folder.write_facts(dashboard=port, token=str(token_path), submit_dir=str(allocation.submit_dir))
        self.log.write(f"dashboard at http://127.0.0.1:{port} on {allocation.head.name}, token in {token_path}")
        self.log.write(f"driver starts {{after}}: {shlex.join(self.driver)}")

    def _keep_logs(self, config: ClusterConfig, code: int) -> None:
        """Keep Ray's logs if the job failed with the exit code `code`, or a node is lost."""
        if self.end.is_failure(code) and not self.signals.received:  # after a signal, Slurm waits for the job to end
            self.end.has_kept_logs = kept_logs.keep(self.kept_logs, config.folder, self.allocation.head.name)


@contextmanager
def _staged(staging: Staging | None, log: JobLog) -> Iterator[Staging | None]:
    """Stage within the block, and yield `staging`; None if that fails, because everything can be read in place."""
    with ExitStack() as stack:
        if staging:
            try:
                log.write(f"{stack.enter_context(staging.filled())} {{after}}")
            except ConfigError as error:
                log.write(f"warning: {error}; code and data are read in place")
                staging = None
        yield staging


def _print_error(error: RaykdError | OSError) -> None:
    """Print an error as one line. Raise an OSError that a mistake in the code caused."""
    if isinstance(error, OSError) and not is_environment_error(error):  # others: a full RAYKD_TMP, too many processes
        raise error
    remedy = "; remove the cause, and submit again to resume" if isinstance(error, OSError) else ""
    with suppress(OSError):
        print(f"raykd: {error}{remedy}", file=sys.stderr, flush=True)


def _require_programs(environ: Mapping[str, str]) -> None:
    for program in ("srun", "scontrol", *(() if command_of(environ) else ("ray",))):
        if shutil.which(program, path=environ.get("PATH")) is None:
            raise ConfigError(f"'{program}' is not on PATH; set RAYKD_VENV and the modules in slurm/site.sh")


def _log_start(allocation: Allocation, details: JobDetails | None, environ: Mapping[str, str], log: JobLog) -> None:
    """Log the allocation, and warnings about requests that Slurm did not follow. Raises ConfigError for RAYKD_MPS."""
    restarts = f", restart {allocation.restart_count}" if allocation.restart_count else ""
    nodes = ", ".join(str(node) for node in allocation.nodes)
    has_mps = any(node.num_gpus for node in allocation.nodes) and is_mps_requested(environ)
    log.write(f"job {allocation.job_id} on {nodes}{restarts}: starting {'MPS and ' if has_mps else ''}Ray")
    if container := command_of(environ):
        log.write(f"Ray and the experiment run in a container: {shlex.join(container)}")
    unused = unused_gpu(details, environ, allocation.head.name, allocation.head.num_gpus)
    whole = KILLS_EVERYTHING if memory_events.kills_everything() else ""
    for warning in filter(None, (whole, unused, pinning(environ), shadowing(environ), scratch_folder(environ)[1])):
        log.write(f"warning: {warning}")
    if details is not None and (head := allocation.head).name in details.allocations:
        for difference in differences(details, environ, head.name, head.num_cpus):
            log.write(f"warning: {difference}")


def _log_of(allocation: Allocation) -> Path:
    """Return the path of the job's log, which is this process's standard output; Slurm's default if it is no file."""
    path = Path(os.path.realpath("/proc/self/fd/1"))
    return path if is_file(path) else allocation.submit_dir / f"slurm-{allocation.job_id}.out"


def _serve_command(allocation: Allocation) -> list[str]:
    """Return the driver of a job without an experiment. Logs of experiments lie beside the log of the job."""
    log = _log_of(allocation)
    restart = f"-{allocation.restart_count}" if allocation.restart_count else ""
    return [*module_command("serve"), str(allocation.job_id), f"{log.with_suffix('')}{restart}"]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
