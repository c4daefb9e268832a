"""The Ray cluster on all nodes of a job: start the head, then the workers, compare Ray with the allocation, end it."""

import json
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from raykd.cluster import node_address
from raykd.cluster.allocation import Allocation
from raykd.cluster.container import in_container
from raykd.cluster.job_folder import JobFolder
from raykd.cluster.mps import after_mps
from raykd.cluster.nodes import RayNode, mismatch
from raykd.cluster.ports import Ports
from raykd.cluster.ray_process import STOP_TIMEOUT_S, RayProcess, stop
from raykd.cluster.ray_start import free_shared_memory, module_command, start_head
from raykd.cluster.slurm_commands import SlurmError, slurm_output
from raykd.cluster.staging import Staging
from raykd.cluster.subreaper import END_SIGNAL
from raykd.cluster.worker_node import worker_command
from raykd.errors import RaykdError, RayNotStarted

HEAD_END_S = 5  # subreaper.py detects a lost process within a second
POLL_S = 0.05
AGENT_FAILED = "one Ray agent failed"  # a text in the raylet's log


@dataclass(frozen=True)
class ClusterConfig:
    """The inputs of a cluster's start. environment: of Ray's processes. head_address: IPv4, '' if Ray chooses it."""

    allocation: Allocation
    ports: Ports
    folder: JobFolder
    environment: Mapping[str, str]
    start_timeout_s: float  # limit for the head, and then for all workers together
    head_address: str = ""
    staging: Staging | None = None  # each node stages code and data


class RayCluster:
    """Ray on all nodes, until its block ends. log: prints a line, in which '{after}' stands for the job's age."""

    def __init__(self, config: ClusterConfig, log: Callable[[str], None]) -> None:
        self._config, self._log = config, log
        self._timeout = f"{config.start_timeout_s:g} s (RAYKD_START_TIMEOUT_S)"
        self._workers: dict[str, RayProcess] = {}
        self.lost: set[str] = set()  # names of nodes that had joined
        self._nodes_path = config.folder.path / "nodes.jsonl"
        node, folder = config.allocation.head, config.folder
        start = start_head(node, config.ports, folder, free_shared_memory(), config.head_address)
        start = after_mps(start, node, folder.path, config.environment)
        command = in_container([*module_command("subreaper"), f"--timeout={config.start_timeout_s}", *start])
        self._head = RayProcess("Ray's head", command, config.environment, folder.log_path(node.name))
        self._watcher = self._watch_nodes()
        self._detached: list[str] = []  # steps as JOB.STEP

    def __enter__(self) -> "RayCluster":
        return self

    def __exit__(self, *_: object) -> None:
        processes = [*self._workers.values(), self._head]
        for process in processes:
            process.request_end()
        if self._detached:  # while Slurm ends the job, it refuses this and ends the steps itself
            command = ["scancel", f"--signal={END_SIGNAL.name.removeprefix('SIG')}", *self._detached]
            with suppress(SlurmError):
                slurm_output(command, STOP_TIMEOUT_S)
        for process in processes:
            process.stop()
        stop(self._watcher, STOP_TIMEOUT_S)

    def wait_until_up(self, check: Callable[[], None]) -> str:
        """Wait for the head, start the workers, wait until all have joined, and return the head's address, IP:PORT.

        check: called repeatedly; it may raise to give up. Raises RayNotStarted if Ray ends on a node or a node does
        not join in time, RaykdError if the cluster differs from the allocation.
        """
        config, allocation = self._config, self._config.allocation
        address = f"{self._wait_for_head(check).address}:{config.ports.gcs}"
        if allocation.workers and address.startswith(node_address.LOOPBACK):
            raise RayNotStarted(
                f"{allocation.head.name} resolves its name to {address.partition(':')[0]}, which other nodes cannot "
                f"reach; set {node_address.VARIABLE} in slurm/site.sh to the interface that connects the nodes, such "
                "as ib0 ('ip -4 addr' lists them)"
            )
        for number, node in enumerate(allocation.workers, 1):
            command = worker_command(node, number, allocation.job_id, address, config.staging, config.start_timeout_s)
            log_path, token = config.folder.log_path(node.name), config.folder.token()
            self._workers[node.name] = RayProcess(f"Ray on {node.name}", command, config.environment, log_path, token)
        self._wait_for_workers(check)
        if difference := mismatch(self.nodes(), allocation.nodes):
            raise RaykdError(f"the Ray cluster differs from the job's allocation: {difference}; submit the job again")
        steps = (worker.detach() for worker in self._workers.values())
        self._detached = [f"{allocation.slurm_id}.{step}" for step in steps if step]
        return address

    def nodes(self) -> list[RayNode]:
        """Return the nodes that were alive at the last change."""
        lines = self._nodes_path.read_text().split("\n")[:-1]  # the last line may be incomplete
        return [RayNode(**fields) for fields in json.loads(lines[-1])] if lines else []

    def failure(self) -> str:
        """Return why the head has ended, or ''. Log each lost node once; the job continues without it."""
        alive = {node.name for node in self.nodes()}
        for node in self._config.allocation.workers:
            if node.name not in alive | self.lost:
                self.lost.add(node.name)
                remaining = f"{len(alive)} of {len(self._config.allocation.nodes)} nodes"
                self._log(f"{node.name} is lost {{after}}; continuing with {remaining}")
        self._report_notices()
        return self._head.failure("while the experiment ran")

    def was_ended_by_agent(self) -> bool:
        """Return whether the head's raylet ended because one of its agents was killed, which Ray does not survive."""
        logs = self._config.folder.ray_path / "session_latest" / "logs"
        try:
            return any(AGENT_FAILED in path.read_text(errors="replace") for path in logs.glob("raylet.*"))
        except OSError:
            return False

    def _report_notices(self) -> bool:
        """Log the new notices of the head's subreaper. Return whether there were any."""
        notices = self._head.notices()
        for notice in notices:
            self._log(f"{notice} ({{after}})")
        return bool(notices)

    def _wait_for_head(self, check: Callable[[], None]) -> RayNode:
        while not (heads := [node for node in self.nodes() if node.is_head]):
            check()
            if self._report_notices():
                self._restart_watcher()
            if failure := self._head.failure("before it was up"):
                raise RayNotStarted(failure)
            if self._head.age_s > self._config.start_timeout_s:
                raise RayNotStarted(f"Ray's head is not up after {self._timeout}{self._head.log_tail()}")
            self._require_watcher()
            time.sleep(POLL_S)
        self._log(f"head up {{after}} on {self._config.allocation.head}")
        return heads[0]

    def _wait_for_workers(self, check: Callable[[], None]) -> None:
        deadline = time.monotonic() + self._config.start_timeout_s
        logged, num_nodes = None, len(self._config.allocation.nodes)
        while missing := set(self._workers) - {node.name for node in self.nodes()}:
            check()
            if missing != logged:
                joined = f"{num_nodes - len(missing)} of {num_nodes} nodes"
                self._log(f"{joined} {{after}}; waiting for {', '.join(sorted(missing))}")
                logged = missing
            for name in sorted(missing):
                if failure := self._workers[name].failure("before it had joined"):
                    raise RayNotStarted(failure)
            if time.monotonic() > deadline:
                tail = self._workers[min(missing)].log_tail()
                raise RayNotStarted(f"{', '.join(sorted(missing))} did not join within {self._timeout}{tail}")
            if failure := self._head.failure("while nodes joined"):
                raise RayNotStarted(failure)
            self._require_watcher()
            time.sleep(POLL_S)
        if self._workers:
            self._log(f"{num_nodes} of {num_nodes} nodes {{after}}")
            for notice in dict.fromkeys(notice for worker in self._workers.values() for notice in worker.notices()):
                self._log(notice)
        else:  # no node but the head can be lost
            stop(self._watcher, STOP_TIMEOUT_S)

    def _require_watcher(self) -> None:
        """Raise RayNotStarted if the watcher has ended, which it does shortly before the head."""
        if self._watcher.poll() is None:
            return
        end = time.monotonic() + HEAD_END_S
        while not self._head.has_ended() and time.monotonic() < end:
            if self._report_notices():
                self._restart_watcher()
                return
            time.sleep(POLL_S)
        failure = self._head.failure("before all nodes were up")
        raise RayNotStarted(failure or f"cannot read the nodes from Ray's head{self._head.log_tail()}")

    def _restart_watcher(self) -> None:
        """Watch the GCS of another start, because the watcher ends with its GCS."""
        stop(self._watcher, STOP_TIMEOUT_S)
        self._watcher = self._watch_nodes()

    def _watch_nodes(self) -> subprocess.Popen[bytes]:
        """Start nodes.py, whose errors go to the head's log."""
        config, null = self._config, subprocess.DEVNULL
        command = in_container([*module_command("nodes"), f"127.0.0.1:{config.ports.gcs}"])
        log_path = config.folder.log_path(config.allocation.head.name)
        with self._nodes_path.open("wb") as lines, log_path.open("ab") as log:
            return subprocess.Popen(command, env=config.environment, stdin=null, stdout=lines, stderr=log)
