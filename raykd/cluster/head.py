"""Ray's head as a step of the job: its command line, environment, start, readiness and end.

A step (`srun --overlap`), so that Slurm ends it with the job. Not `ray symmetric-run`: that exits 0 when the
head fails to start, and ends with a `ray stop` that takes other jobs' Ray down.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from raykd.cluster.folder import JobFolder
from raykd.cluster.nodes import RayNode, mismatch, parse_nodes
from raykd.cluster.ports import Ports
from raykd.cluster.process import stop
from raykd.cluster.slurm import MEBIBYTE, Allocation, Node
from raykd.errors import RaykdError

OBJECT_STORE_SHARE = 0.3  # of the job's memory: Ray's own default
MIN_OBJECT_STORE_BYTES = 80 * MEBIBYTE  # Ray refuses less than 75
START_TIMEOUT_S = 180  # 8 s on a local disk; a cold venv on a busy shared filesystem takes minutes
STOP_TIMEOUT_S = 10
POLL_S = 0.05
LOG_LINES = 15
TERMINAL_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
RAY_LOG_PREFIX = re.compile(r"^\d{4}-\d\d-\d\d \S+\s+[A-Z]+ \S+ -- *")


def head_command(allocation: Allocation, ports: Ports, folder: JobFolder, free_shm_bytes: int) -> list[str]:
    """`srun ... ray start --head`. `free_shm_bytes` caps the object store, which lives in /dev/shm."""
    node = allocation.head
    return [
        *("srun", "--overlap", "--quiet", "--input=none", "--export=ALL", "--job-name=ray-head"),
        *("--nodes=1", f"--nodelist={node.name}"),
        # All of the job's share, said: with --exclusive a step would get no more GPUs than --gres asked for.
        *("--ntasks=1", f"--cpus-per-task={node.num_cpus}", "--mem=0"),
        *([f"--gres=gpu:{node.num_gpus}"] if node.num_gpus else []),
        *(sys.executable, "-m", "raykd.cluster.step"),
        *("ray", "start", "--head", "--block", "--disable-usage-stats", "--log-color=false"),
        f"--port={ports.control_store}",
        f"--ray-client-server-port={ports.client_server}",
        f"--dashboard-agent-listen-port={ports.agent}",
        f"--dashboard-port={ports.dashboard}",
        "--dashboard-host=127.0.0.1",
        "--include-dashboard=true",  # said, a dashboard that cannot start fails the head
        f"--temp-dir={folder.ray_path}",
        f"--num-cpus={node.num_cpus}",
        f"--num-gpus={node.num_gpus}",
        *_memory_options(node, free_shm_bytes),
    ]


def _memory_options(node: Node, free_shm_bytes: int) -> list[str]:
    if node.memory_bytes is None:  # the whole node is the job's, and Ray measures it
        return []
    share = min(int(node.memory_bytes * OBJECT_STORE_SHARE), int(free_shm_bytes * 0.9))
    object_store_bytes = max(share, MIN_OBJECT_STORE_BYTES)
    memory_bytes = node.memory_bytes - object_store_bytes
    return [f"--memory={memory_bytes}", f"--object-store-memory={object_store_bytes}"]


def ray_environment(environ: Mapping[str, str], folder: JobFolder, root: Path) -> dict[str, str]:
    """What head and driver share; workers get the head's. `root` is where `import raykd` works.

    RAY_ADDRESS would make `ray start --head` fail, RAY_AUTH_TOKEN would win over the job's own token.
    """
    shared = {name: value for name, value in environ.items() if name not in ("RAY_ADDRESS", "RAY_AUTH_TOKEN")}
    search_path = [str(root), *filter(None, [environ.get("PYTHONPATH")])]
    return shared | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder.token_path),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_USAGE_STATS_REPORT_URL": "http://127.0.0.1:9",  # switched off, it would still say that it is
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # else a head told to end waits 30 s for its tasks
        "PYTHONPATH": os.pathsep.join(search_path),
    }


def driver_environment(shared: Mapping[str, str], address: str) -> dict[str, str]:
    """What `ray.init()` needs to find the job's cluster; lines as they come, and no colours in a log file."""
    return dict(shared) | {"RAY_ADDRESS": address, "RAY_COLOR_PREFIX": "0", "PYTHONUNBUFFERED": "1"}


def likely_reason(lines: Sequence[str]) -> str:
    """The one line of a head's log that says why it ended: of Ray's if there is one, not of Slurm's."""
    for line, following in pairwise(lines):
        if "exited unexpectedly" in line:  # then Ray names the process, and prints pages of that one's log
            return RAY_LOG_PREFIX.sub("", f"{line} {RAY_LOG_PREFIX.sub('', following)}")
    own = [line for line in lines if not line.startswith(("srun:", "slurmstepd"))] or lines
    return RAY_LOG_PREFIX.sub("", own[-1].strip()) if own else "it printed nothing"


class Head:
    """The running step. Use as a context manager: leaving it ends the step and all that Ray started."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], folder: JobFolder):
        self._environment = environment
        self._log_path = folder.log_path
        self._started = time.monotonic()
        self._step = self._spawn(command)

    def __enter__(self) -> "Head":
        return self

    def __exit__(self, *_: object) -> None:
        stop(self._step, STOP_TIMEOUT_S)

    def wait_until_up(self, allocation: Allocation, ports: Ports, check: Callable[[], None]) -> RayNode:
        """The head as Ray sees it, once every node of the job is alive. `check` may raise to give up.

        Raises: RaykdError when the step ends, takes longer than 180 s, or has other resources than the job.
        """
        address = f"127.0.0.1:{ports.control_store}"
        question = [sys.executable, "-m", "raykd.cluster.nodes", address, str(len(allocation.nodes))]
        answer = self._spawn(question, stdout=subprocess.PIPE)
        try:
            while answer.poll() is None:
                check()
                if failure := self.failure("before it was up"):
                    raise RaykdError(failure)
                if self._age_s() > START_TIMEOUT_S:
                    raise RaykdError(f"Ray's head is not up after {START_TIMEOUT_S} s{self._log_tail()}")
                time.sleep(POLL_S)
        finally:
            stop(answer, STOP_TIMEOUT_S)
        if answer.returncode:
            raise RaykdError(f"cannot ask Ray's head for its nodes{self._log_tail()}")
        nodes = parse_nodes(answer.communicate()[0])
        if difference := mismatch(nodes, allocation.nodes):
            raise RaykdError(f"the Ray cluster is not what Slurm gave the job: {difference}")
        return next(node for node in nodes if node.is_head)

    def failure(self, when: str) -> str:
        """Why the step has ended (exit code, likely reason, the end of its log), or '' while it runs."""
        code = self._step.poll()
        if code is None:
            return ""
        return f"Ray's head ended with exit code {code} after {self._age_s():.0f} s, {when}{self._log_tail()}"

    def _log_tail(self) -> str:
        """': reason' and the log's last lines."""
        text = TERMINAL_COLOURS.sub("", self._log_path.read_text(errors="replace"))
        lines = [line.rstrip() for line in text.splitlines() if line.strip()]
        return "\n    ".join([f": {likely_reason(lines)}", *lines[-LOG_LINES:]])

    def _spawn(self, command: Sequence[str], stdout: int | None = None) -> subprocess.Popen[str]:
        """Its output goes to the head's log."""
        with self._log_path.open("ab") as log:
            return subprocess.Popen(
                command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log if stdout is None else stdout,
                stderr=log,
                text=True,
            )

    def _age_s(self) -> float:
        return time.monotonic() - self._started
