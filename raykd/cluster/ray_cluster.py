"""The job's Ray over all its nodes: head, then the others, until the cluster is what Slurm gave; and its end."""

import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from raykd.cluster.job_folder import JobFolder
from raykd.cluster.nodes import RayNode, mismatch, parse_nodes
from raykd.cluster.ports import Ports
from raykd.cluster.ray_process import STOP_TIMEOUT_S, RayStep, stop
from raykd.cluster.ray_start import here, start_head
from raykd.cluster.slurm import Allocation
from raykd.cluster.slurm_job import ask
from raykd.cluster.staging import Staging
from raykd.cluster.subreaper import END_SIGNAL
from raykd.cluster.worker_node import member_command
from raykd.errors import ConfigError, RaykdError, RayNotStarted

HEAD_END_S = 5  # subreaper.py notices a lost process within a second
POLL_S = 0.05
AGENT_FAILED = "one Ray agent failed"  # the raylet's own words


@dataclass(frozen=True)
class Job:
    """What a cluster is started from. `environment` is that of Ray's processes."""

    allocation: Allocation
    ports: Ports
    folder: JobFolder
    environment: Mapping[str, str]
    start_timeout_s: float  # for the head, and then for all others together
    staging: Staging | None = None  # of code and data, by each node for itself


class RayCluster:
    """Use as a context manager: leaving it ends Ray on every node.

    `say` prints a status line, with '{after}' for the job's age.
    """

    def __init__(self, job: Job, say: Callable[[str], None]) -> None:
        self._job, self._say = job, say
        self._members: dict[str, RayStep] = {}
        self.lost: set[str] = set()  # names of nodes that were there
        self._nodes_path = job.folder.path / "nodes.jsonl"
        node, folder = job.allocation.head, job.folder
        start = start_head(node, job.ports, folder, shutil.disk_usage("/dev/shm").free)
        command = [*here("subreaper"), f"--timeout={job.start_timeout_s}", *start]
        self._head = RayStep("Ray's head", command, job.environment, folder.log_path(node.name))
        self._watcher = self._watch_nodes()
        self._detached: list[str] = []  # steps, JOB.STEP

    def __enter__(self) -> "RayCluster":
        return self

    def __exit__(self, *_: object) -> None:
        steps = [*self._members.values(), self._head]
        for step in steps:
            step.ask_to_end()
        if self._detached:  # at the end of a job Slurm refuses, and ends them itself
            command = ["scancel", f"--signal={END_SIGNAL.name.removeprefix('SIG')}", *self._detached]
            with suppress(ConfigError):
                ask(command, STOP_TIMEOUT_S)
        for step in steps:
            step.stop()
        stop(self._watcher, STOP_TIMEOUT_S)

    def wait_until_up(self, check: Callable[[], None]) -> str:
        """Start the other nodes once the head is there, wait for all, and return the head's address, IP:PORT.

        `check` may raise to give up. Raises: RayNotStarted when Ray ends on a node or a node does not join in time,
        RaykdError when the cluster is not what Slurm gave the job.
        """
        allocation = self._job.allocation
        head = self._wait_for_head(check)
        address = f"{head.address}:{self._job.ports.control_store}"
        for number, node in enumerate(allocation.others, 1):
            command = member_command(
                node, number, allocation.job_id, address, self._job.staging, self._job.start_timeout_s
            )
            log_path, token = self._job.folder.log_path(node.name), self._job.folder.token()
            self._members[node.name] = RayStep(f"Ray on {node.name}", command, self._job.environment, log_path, token)
        self._wait_for_members(check)
        if difference := mismatch(self.nodes(), allocation.nodes):
            raise RaykdError(f"the Ray cluster is not what Slurm gave the job: {difference}")
        steps = (member.detach() for member in self._members.values())
        self._detached = [f"{allocation.job_id}.{step}" for step in steps if step]
        return address

    def nodes(self) -> list[RayNode]:
        """Those alive, as last heard."""
        lines = self._nodes_path.read_text().split("\n")
        return parse_nodes(lines[-2]) if len(lines) > 1 else []  # the last may be half written

    def failure(self) -> str:
        """Why the head has ended, or ''. A node that is lost is said once; the job goes on with the others."""
        alive = {node.name for node in self.nodes()}
        for node in self._job.allocation.others:
            if node.name not in alive | self.lost:
                self.lost.add(node.name)
                left = f"{len(alive)} of {len(self._job.allocation.nodes)} nodes"
                self._say(f"{node.name} is lost {{after}}; going on with {left}")
        self._report_notices()
        return self._head.failure("while the experiment ran")

    def was_ended_by_agent(self) -> bool:
        """Whether the head's raylet ended because one of its agents was killed, which Ray has no way to survive."""
        logs = self._job.folder.ray_path / "session_latest" / "logs"
        try:
            return any(AGENT_FAILED in path.read_text(errors="replace") for path in logs.glob("raylet.*"))
        except OSError:
            return False

    def _report_notices(self) -> bool:
        """Print what the head's step has reported. Return whether there was anything."""
        notices = self._head.notices()
        for notice in notices:
            self._say(f"{notice} ({{after}})")
        return bool(notices)

    def _wait_for_head(self, check: Callable[[], None]) -> RayNode:
        while not (heads := [node for node in self.nodes() if node.is_head]):
            check()
            if self._report_notices():
                self._restart_watcher()
            if failure := self._head.failure("before it was up"):
                raise RayNotStarted(failure)
            if self._head.age_s > self._job.start_timeout_s:
                late = f"not up after {self._job.start_timeout_s:g} s (RAYKD_START_TIMEOUT_S)"
                raise RayNotStarted(f"Ray's head is {late}{self._head.log_tail()}")
            self._require_watcher()
            time.sleep(POLL_S)
        self._say(f"head up {{after}} on {self._job.allocation.head}")
        return heads[0]

    def _wait_for_members(self, check: Callable[[], None]) -> None:
        deadline = time.monotonic() + self._job.start_timeout_s
        said, wanted = None, len(self._job.allocation.nodes)
        while waiting := set(self._members) - {node.name for node in self.nodes()}:
            check()
            if waiting != said:
                self._say(f"{wanted - len(waiting)} of {wanted} nodes {{after}}; waiting for {_listed(waiting)}")
                said = waiting
            for name in sorted(waiting):
                if failure := self._members[name].failure("before it had joined"):
                    raise RayNotStarted(failure)
            if time.monotonic() > deadline:
                late = f"not joined after {self._job.start_timeout_s:g} s (RAYKD_START_TIMEOUT_S)"
                raise RayNotStarted(f"{_listed(waiting)} {late}{self._members[min(waiting)].log_tail()}")
            if failure := self._head.failure("while nodes joined"):
                raise RayNotStarted(failure)
            self._require_watcher()
            time.sleep(POLL_S)
        if self._members:
            self._say(f"{wanted} of {wanted} nodes {{after}}")
        else:  # nobody can be lost but the head
            stop(self._watcher, STOP_TIMEOUT_S)

    def _require_watcher(self) -> None:
        """Raises RayNotStarted when the watcher has ended: it ends with the head, a little earlier."""
        if self._watcher.poll() is None:
            return
        end = time.monotonic() + HEAD_END_S
        while not self._head.has_ended() and time.monotonic() < end:
            if self._report_notices():
                self._restart_watcher()
                return
            time.sleep(POLL_S)
        failure = self._head.failure("before all nodes were up")
        raise RayNotStarted(failure or f"cannot ask Ray's head for its nodes{self._head.log_tail()}")

    def _restart_watcher(self) -> None:
        """For the control store of another start: the watcher ends with the one that it asked."""
        stop(self._watcher, STOP_TIMEOUT_S)
        self._watcher = self._watch_nodes()

    def _watch_nodes(self) -> subprocess.Popen[bytes]:
        """Its errors go to the head's log."""
        command = [*here("nodes"), f"127.0.0.1:{self._job.ports.control_store}"]
        log_path = self._job.folder.log_path(self._job.allocation.head.name)
        with self._nodes_path.open("wb") as lines, log_path.open("ab") as log:
            return subprocess.Popen(
                command, env=self._job.environment, stdin=subprocess.DEVNULL, stdout=lines, stderr=log
            )


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names))
