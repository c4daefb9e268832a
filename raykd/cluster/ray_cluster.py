"""The job's Ray over all its nodes: head, then the others, until the cluster is what Slurm gave; and its end."""

import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from raykd.cluster.folder import JobFolder
from raykd.cluster.member import member_command
from raykd.cluster.nodes import RayNode, mismatch, parse_nodes
from raykd.cluster.ports import Ports
from raykd.cluster.process import stop
from raykd.cluster.ray_start import here, srun, start_head
from raykd.cluster.ray_step import STOP_TIMEOUT_S, RayStep
from raykd.cluster.slurm import Allocation
from raykd.cluster.staging import Staging
from raykd.errors import RaykdError

HEAD_END_S = 5  # `ray start --block` notices a lost process within a second
POLL_S = 0.05


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
        command = [*srun(node, "ray-head"), *here("step"), *start]
        self._head = RayStep("Ray's head", command, job.environment, folder.log_path(node.name))
        self._watcher = self._watch_nodes()

    def __enter__(self) -> "RayCluster":
        return self

    def __exit__(self, *_: object) -> None:
        steps = [*self._members.values(), self._head]
        for step in steps:
            step.ask_to_end()
        for step in steps:
            step.stop()
        stop(self._watcher, STOP_TIMEOUT_S)

    def wait_until_up(self, check: Callable[[], None]) -> str:
        """Start the other nodes once the head is there, wait for all, and return the head's address, IP:PORT.

        `check` may raise to give up. Raises: RaykdError when a step ends, a node does not come in time, or the
        cluster is not what Slurm gave the job.
        """
        allocation = self._job.allocation
        head = self._wait_for_head(check)
        address = f"{head.address}:{self._job.ports.control_store}"
        for number, node in enumerate(allocation.others, 1):
            command = member_command(node, number, allocation.job_id, address, self._job.staging)
            log_path, token = self._job.folder.log_path(node.name), self._job.folder.token()
            self._members[node.name] = RayStep(f"Ray on {node.name}", command, self._job.environment, log_path, token)
        self._wait_for_members(check)
        if difference := mismatch(self.nodes(), allocation.nodes):
            raise RaykdError(f"the Ray cluster is not what Slurm gave the job: {difference}")
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
        return self._head.failure("while the experiment ran")

    def _wait_for_head(self, check: Callable[[], None]) -> RayNode:
        while not (heads := [node for node in self.nodes() if node.is_head]):
            check()
            if failure := self._head.failure("before it was up"):
                raise RaykdError(failure)
            if self._head.age_s > self._job.start_timeout_s:
                late = f"not up after {self._job.start_timeout_s:g} s (RAYKD_START_TIMEOUT_S)"
                raise RaykdError(f"Ray's head is {late}{self._head.log_tail()}")
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
                    raise RaykdError(failure)
            if time.monotonic() > deadline:
                late = f"not joined after {self._job.start_timeout_s:g} s (RAYKD_START_TIMEOUT_S)"
                raise RaykdError(f"{_listed(waiting)} {late}{self._members[min(waiting)].log_tail()}")
            if failure := self._head.failure("while nodes joined"):
                raise RaykdError(failure)
            self._require_watcher()
            time.sleep(POLL_S)
        if self._members:
            self._say(f"{wanted} of {wanted} nodes {{after}}")
        else:  # nobody can be lost but the head
            stop(self._watcher, STOP_TIMEOUT_S)

    def _require_watcher(self) -> None:
        """Raises RaykdError when nobody is left to tell of the nodes: it ends when the head does, a little earlier."""
        if self._watcher.poll() is None:
            return
        end = time.monotonic() + HEAD_END_S
        while not self._head.has_ended() and time.monotonic() < end:
            time.sleep(POLL_S)
        failure = self._head.failure("before all nodes were up")
        raise RaykdError(failure or f"cannot ask Ray's head for its nodes{self._head.log_tail()}")

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
