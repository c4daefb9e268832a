"""Ray on a node other than the head's: makes the node's private folder, joins the head, and cleans up at the end.

    python -m raykd.cluster.worker_node NODE_JSON NODE_NUMBER JOB_ID HEAD:PORT TIMEOUT_S STAGING_JSON

Runs under srun. It reads the job's token from standard input, and first prints the number of its step.

It ends with Ray and leaves nothing on the node. SIGTERM, which Slurm sends before it ends the job, ends it only once
the head is gone: until then a run may still be saved. Exit code: Ray's, or 128 + number if a signal ended it.
"""

import json
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict

from raykd.cluster import lock_check, subreaper
from raykd.cluster.allocation import Node
from raykd.cluster.container import in_container
from raykd.cluster.job_folder import job_folder
from raykd.cluster.kept_logs import keep_if_requested
from raykd.cluster.limits import set_limits
from raykd.cluster.mps import after_mps
from raykd.cluster.node_address import VARIABLE as INTERFACE
from raykd.cluster.ports import accepts_connections, connection_error, find_ports
from raykd.cluster.ray_start import WORKER_SETTINGS, free_shared_memory, module_command, srun, start_worker
from raykd.cluster.ray_token import private_environment
from raykd.cluster.staging import Staging
from raykd.errors import RaykdError, RayNotStarted

CONNECT_S = 20.0  # the head is up before the other nodes start
ENDED_BY_HEAD = 128 + subreaper.END_SIGNAL  # the code of the step would be the DerivedExitCode of the job
ENDED_BY_SLURM = 128 + signal.SIGTERM
ANSWER_S = 3.0  # time for a running head to accept a connection; one that is gone refuses it immediately


def worker_command(
    node: Node, node_number: int, job_id: int, address: str, staging: Staging | None, timeout_s: float = 0.0
) -> list[str]:
    """Return the command by which `node`, number `node_number` from 1, joins the head at `address`, HOST:PORT."""
    staging_json = staging.to_json() if staging else ""
    arguments = [json.dumps(asdict(node)), str(node_number), str(job_id), address, str(timeout_s), staging_json]
    return [*srun(node, f"ray-{node.name}"), *in_container([*module_command("worker_node"), *arguments])]


def main(arguments: Sequence[str]) -> int:
    """Join the head, stay until Ray or the job ends, and clean up."""
    node_json, node_number, job_id, address, timeout_s, staging_json = arguments
    node = Node(**json.loads(node_json))
    subreaper.hold_signals()
    set_limits(os.environ)
    print(f"step={os.environ.get('SLURM_STEP_ID', '')}", flush=True)
    if warning := lock_check.warning(node.name):
        print(f"{subreaper.NOTICE}{warning}", flush=True)
    token = sys.stdin.read()
    staged = Staging.from_json(staging_json).filled() if staging_json else nullcontext()
    try:
        _require_connection(node.name, address)
        with job_folder(int(job_id), os.environ, token, int(node_number)) as folder, staged:
            os.environ |= WORKER_SETTINGS | private_environment(folder.path)
            command = start_worker(address, node, find_ports(int(job_id)), folder, free_shared_memory())
            command = after_mps(command, node, folder.path, os.environ)
            code = subreaper.main(command, float(timeout_s), lambda: not accepts_connections(address, ANSWER_S))
            keep_if_requested(folder, node.name, has_failed=code not in (ENDED_BY_HEAD, ENDED_BY_SLURM))
            return 0 if code == ENDED_BY_HEAD else code
    except RaykdError as error:
        print(f"raykd: {error}", file=sys.stderr, flush=True)
        return error.exit_code


def _require_connection(node: str, address: str) -> None:
    """Raise RayNotStarted if this node cannot reach the head at `address`, for which Ray would try for minutes."""
    if error := connection_error(address, CONNECT_S):
        raise RayNotStarted(
            f"{node} cannot connect to Ray's head at {address} ({error}); set {INTERFACE} in slurm/site.sh to the "
            "network interface that connects the nodes, such as ib0"
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
