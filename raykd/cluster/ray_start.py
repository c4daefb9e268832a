"""The command lines and the environment that start Ray on a node of the job.

The head runs in the batch script, and every other node in its own step (`srun --overlap`). So Slurm ends all of them
with the job, and the loss of one node does not end Ray on the others. `ray symmetric-run` is not used: it exits with 0
if the head fails to start, and ends with a `ray stop` that ends the Ray clusters of other jobs.
"""

import os
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path

from raykd.cluster.allocation import MEBIBYTE, Node, without_step_requests
from raykd.cluster.container import command_of, python
from raykd.cluster.job_folder import JobFolder
from raykd.cluster.ports import Ports
from raykd.cluster.ray_token import private_environment
from raykd.cluster.ray_variables import FEWER_WORKERS, GPU_ORDER, without_ray
from raykd.cluster.staging import Staging
from raykd.config.local_modules import USER_PYTHON_PATH
from raykd.data.packs import node_copy
from raykd.errors import ConfigError

SHARED_MEMORY = "/dev/shm"  # Ray's object store
OBJECT_STORE_SHARE = 0.3  # fraction of the job's memory; Ray's default
MIN_OBJECT_STORE_BYTES = 80 * MEBIBYTE  # Ray refuses less than 75

_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_USAGE_STATS_REPORT_URL": "http://127.0.0.1:9",  # Ray reports even that the statistics are disabled
    "RAY_JOB_STOP_WAIT_TIME_S": "90",  # so that a stopped experiment can save; by default Ray kills it after 3 s
    **FEWER_WORKERS,
    **GPU_ORDER,
}

# For Ray's GCS on several nodes: a node that does not answer for 3 x (3 + 5) s is lost. Ray's default is
# 5 x (3 + 10) s, during which its runs would wait. On one node, short checks would only fail on a busy machine.
_QUICK_HEALTH_CHECKS = {
    "RAY_health_check_period_ms": "3000",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "3",
}
# Ray kills workers when 95 % of the node's memory is in use, by whichever job: it reads no control group below the root
# (github.com/ray-project/ray/issues/59796). Slurm limits the memory of the job.
_WITHOUT_MEMORY_MONITOR = {"RAY_memory_monitor_refresh_ms": "0"}
_WHOLE_NODE = 0.9  # fraction of a node's memory from which on no other job can fill it
# A node ends when its head is lost; by default it would wait for a minute.
WORKER_SETTINGS = {"RAY_gcs_rpc_server_reconnect_timeout_s": "10"}


def srun(node: Node, job_name: str, whole: bool = True) -> list[str]:
    """Return the command of a step on `node` with all of the job's resources there, or with one CPU if not `whole`."""
    num_cpus, num_gpus = (node.num_cpus, node.num_gpus) if whole else (1, 0)
    no_gpu = [] if whole else ["--gres=none"]
    return [
        *("srun", "--overlap", "--quiet", "--no-kill", "--export=ALL", f"--job-name={job_name}"),
        *("--nodes=1", f"--nodelist={node.name}", "--ntasks=1", f"--cpus-per-task={num_cpus}", "--mem=0", "--mpi=none"),
        *([f"--gres=gpu:{num_gpus}"] if num_gpus else no_gpu),
    ]


def free_shared_memory() -> int:
    """Return the free bytes of /dev/shm. Raises ConfigError if this node has none, without which Ray does not start."""
    try:
        return shutil.disk_usage(SHARED_MEMORY).free
    except OSError as error:
        raise ConfigError(
            f"{SHARED_MEMORY} cannot be read on {socket.gethostname()} ({error.strerror}), and Ray requires it; ask "
            "the administrators to mount it, or bind it into your container"
        ) from None


def start_head(node: Node, ports: Ports, folder: JobFolder, free_shm_bytes: int, address: str = "") -> list[str]:
    """Return the command that starts Ray's head.

    free_shm_bytes: limits the object store, which is in /dev/shm. address: IPv4, or '' if Ray has to choose it.
    """
    return [
        *_ray_start(),
        "--head",
        f"--port={ports.gcs}",
        f"--ray-client-server-port={ports.client_server}",
        f"--dashboard-port={ports.dashboard}",
        "--dashboard-host=127.0.0.1",
        "--include-dashboard=true",  # explicit, so that the head fails if the dashboard cannot start
        *([f"--node-ip-address={address}"] if address else []),
        *_shared_options(node, ports, folder, free_shm_bytes),
    ]


def start_worker(address: str, node: Node, ports: Ports, folder: JobFolder, free_shm_bytes: int) -> list[str]:
    """Return the command that starts Ray on `node` and joins the head at `address`, HOST:PORT."""
    return [*_ray_start(), f"--address={address}", *_shared_options(node, ports, folder, free_shm_bytes)]


def _ray_start() -> list[str]:
    """Return `ray start`. A container's PATH may lack the folder of its Python, in which `ray` is."""
    return [python(), "-m", "ray.scripts.scripts", "start"] if command_of(os.environ) else ["ray", "start"]


def _shared_options(node: Node, ports: Ports, folder: JobFolder, free_shm_bytes: int) -> list[str]:
    return [
        *("--disable-usage-stats", "--log-color=false"),  # no --block: subreaper.py watches Ray's processes
        f"--node-name={node.name}",
        f"--dashboard-agent-listen-port={ports.agent}",
        f"--temp-dir={folder.ray_path}",
        f"--num-cpus={node.num_cpus}",
        f"--num-gpus={node.num_gpus}",
        *_memory_options(node, free_shm_bytes),
    ]


def _memory_options(node: Node, free_shm_bytes: int) -> list[str]:
    if node.memory_bytes is None:  # the job has the whole node, and Ray reads its size
        return []
    share = min(int(node.memory_bytes * OBJECT_STORE_SHARE), int(free_shm_bytes * 0.9))
    object_store_bytes = max(share, MIN_OBJECT_STORE_BYTES)
    memory_bytes = node.memory_bytes - object_store_bytes
    return [f"--memory={memory_bytes}", f"--object-store-memory={object_store_bytes}"]


def ray_environment(
    environ: Mapping[str, str],
    folder: JobFolder,
    root: Path,
    several_nodes: bool = False,
    staging: Staging | None = None,
    shares_memory: bool = False,
) -> dict[str, str]:
    """Return the environment of Ray's processes and the driver: the job's, without other clusters' and jobs' variables.

    root: the folder from which raykd is imported. shares_memory: whether other jobs may run on the nodes.
    """
    shared = without_ray(without_step_requests(environ))
    python_path = environ.get("PYTHONPATH", "")
    search_path = {"PYTHONPATH": os.pathsep.join(filter(None, [str(root), python_path])), USER_PYTHON_PATH: python_path}
    staged = {node_copy.NODE_DATA: str(staging.packs_path)} if staging else {}
    if staging and staging.data_path:
        staged["RAYKD_DATA"] = str(staging.data_path)
    private = private_environment(folder.path) | search_path
    settings = _SETTINGS | (_QUICK_HEALTH_CHECKS if several_nodes else {})
    return settings | (_WITHOUT_MEMORY_MONITOR if shares_memory else {}) | shared | private | staged


def is_shared(node: Node, node_bytes: int) -> bool:
    """Return whether the job has only a part of the memory of `node`, which has `node_bytes`."""
    return node.memory_bytes is not None and node.memory_bytes < _WHOLE_NODE * node_bytes


def physical_memory_bytes() -> int:
    """Return the memory of this node."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def driver_environment(shared: Mapping[str, str], address: str) -> dict[str, str]:
    """Return the driver's environment: `ray.init()` finds the cluster; output is unbuffered and without colors."""
    return dict(shared) | {"RAY_ADDRESS": address, "RAY_COLOR_PREFIX": "0", "PYTHONUNBUFFERED": "1"}


def module_command(module: str) -> list[str]:
    """Return the command that runs a module of this package with a Python that all nodes can read."""
    return [python(), "-m", f"raykd.cluster.{module}"]
