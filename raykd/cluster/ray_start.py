"""The command lines that start Ray on a node of the job: `srun` to get there, `ray start` to run there.

The head runs in the batch script itself, every other node in a step (`srun --overlap`) of its own, so that Slurm ends
each with the job and the loss of a node ends no other.
Not `ray symmetric-run`: that exits 0 when the head fails to start, and ends with a `ray stop` that takes other jobs'
Ray down.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from raykd.cluster.job_folder import JobFolder
from raykd.cluster.ports import Ports
from raykd.cluster.private_ray import private_environment
from raykd.cluster.ray_variables import without_ray
from raykd.cluster.slurm import MEBIBYTE, Node, without_step_requests

OBJECT_STORE_SHARE = 0.3  # of the job's memory: Ray's own default
MIN_OBJECT_STORE_BYTES = 80 * MEBIBYTE  # Ray refuses less than 75

_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_USAGE_STATS_REPORT_URL": "http://127.0.0.1:9",  # switched off, it would still say that it is
    "RAY_JOB_STOP_WAIT_TIME_S": "90",  # for one that is stopped to save; after 3 s it would be killed
}

# For Ray's control store. A node that is silent for 3 x (3 + 5) s is lost; by Ray's own 5 x (3 + 10) s a run would
# wait for it for a minute longer. On one node there is nothing to lose but a busy machine's patience.
_QUICK_HEALTH_CHECKS = {
    "RAY_health_check_period_ms": "3000",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "3",
}
# A node whose head is gone ends; by default it would wait a minute for it to come back.
WORKER_SETTINGS = {"RAY_gcs_rpc_server_reconnect_timeout_s": "10"}


def srun(node: Node, job_name: str, whole: bool = True) -> list[str]:
    """`srun ...` onto `node` with all of the job's share there, as a step gets no more than it asks for.

    whole: False for a step that needs one CPU and no GPU.
    """
    num_cpus, num_gpus = (node.num_cpus, node.num_gpus) if whole else (1, 0)
    no_gpu = [] if whole else ["--gres=none"]
    return [
        *("srun", "--overlap", "--quiet", "--no-kill", "--export=ALL", f"--job-name={job_name}"),
        *("--nodes=1", f"--nodelist={node.name}", "--ntasks=1", f"--cpus-per-task={num_cpus}", "--mem=0"),
        *([f"--gres=gpu:{num_gpus}"] if num_gpus else no_gpu),
    ]


def start_head(node: Node, ports: Ports, folder: JobFolder, free_shm_bytes: int) -> list[str]:
    """`ray start --head ...`, to be run on `node`. `free_shm_bytes` caps the object store, which is in /dev/shm."""
    return [
        *("ray", "start", "--head"),
        f"--port={ports.control_store}",
        f"--ray-client-server-port={ports.client_server}",
        f"--dashboard-port={ports.dashboard}",
        "--dashboard-host=127.0.0.1",
        "--include-dashboard=true",  # said, a dashboard that cannot start fails the head
        *_shared_options(node, ports, folder, free_shm_bytes),
    ]


def start_worker(address: str, node: Node, ports: Ports, folder: JobFolder, free_shm_bytes: int) -> list[str]:
    """`ray start --address ...`, to be run on `node`."""
    return ["ray", "start", f"--address={address}", *_shared_options(node, ports, folder, free_shm_bytes)]


def _shared_options(node: Node, ports: Ports, folder: JobFolder, free_shm_bytes: int) -> list[str]:
    return [
        *("--disable-usage-stats", "--log-color=false"),  # not --block: subreaper.py watches Ray's processes
        f"--node-name={node.name}",
        f"--dashboard-agent-listen-port={ports.agent}",
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


def ray_environment(
    environ: Mapping[str, str], folder: JobFolder, root: Path, several_nodes: bool = False, data: Path | None = None
) -> dict[str, str]:
    """The environment that Ray's processes and the driver share: the job's, without leftovers of another Ray or job.

    root: the folder where `import raykd` works. data: the folder that data is staged to.
    """
    shared = without_ray(without_step_requests(environ))
    search_path = [str(root), *filter(None, [environ.get("PYTHONPATH")])]
    staged = {"RAYKD_DATA": str(data)} if data else {}
    own = private_environment(folder.path) | {"PYTHONPATH": os.pathsep.join(search_path)}
    return _SETTINGS | (_QUICK_HEALTH_CHECKS if several_nodes else {}) | shared | own | staged


def driver_environment(shared: Mapping[str, str], address: str) -> dict[str, str]:
    """What `ray.init()` needs to find the job's cluster; lines as they come, and no colours in a log file."""
    return dict(shared) | {"RAY_ADDRESS": address, "RAY_COLOR_PREFIX": "0", "PYTHONUNBUFFERED": "1"}


def here(module: str) -> list[str]:
    """This Python running `module`: the virtual environment is on a filesystem that all nodes see."""
    return [sys.executable, "-m", f"raykd.cluster.{module}"]
