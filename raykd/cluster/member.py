"""A node's part of the job: its own private folder with the job's token, and in it Ray, joined to the head.

    python -m raykd.cluster.member NODE_JSON NODE_NUMBER JOB_ID HEAD:PORT STAGING_JSON

Under srun, the token on standard input.

Ends with Ray, and leaves nothing on the node. Exit code: Ray's, 128 + number when a signal ended it.
"""

import json
import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict

from raykd.cluster import step
from raykd.cluster.folder import job_folder
from raykd.cluster.ports import find_ports
from raykd.cluster.ray_start import WORKER_SETTINGS, here, srun, start_worker
from raykd.cluster.slurm import Node
from raykd.cluster.staging import Staging
from raykd.errors import RaykdError


def member_command(node: Node, node_number: int, job_id: int, address: str, staging: Staging | None) -> list[str]:
    """What the head's node runs to have `node`, from 1 the `node_number`-th, join at `address`."""
    staged = staging.to_json() if staging else ""
    words = [json.dumps(asdict(node)), str(node_number), str(job_id), address, staged]
    return [*srun(node, f"ray-{node.name}"), *here("member"), *words]


def main(words: Sequence[str]) -> int:
    """Join, stay until Ray ends or SIGTERM comes, and clean up."""
    node, (node_number, job_id), address = Node(**json.loads(words[0])), map(int, words[1:3]), words[3]
    step.exit_on_signals()
    token = sys.stdin.read()
    staged = Staging.from_json(words[4]).filled() if words[4] else nullcontext()
    try:
        with job_folder(job_id, os.environ, token, node_number) as folder, staged:
            os.environ |= WORKER_SETTINGS | {"RAY_AUTH_TOKEN_PATH": str(folder.token_path)}
            free_shm_bytes = shutil.disk_usage("/dev/shm").free
            return step.main(start_worker(address, node, find_ports(job_id), folder, free_shm_bytes))
    except RaykdError as error:
        print(f"raykd: {error}", file=sys.stderr, flush=True)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
