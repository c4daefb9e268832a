"""Which nodes Ray has, asked of its control store until the wanted number is alive.

    python -m raykd.cluster.nodes 127.0.0.1:24000 1        prints one line of JSON and ends

Not of the dashboard: while it asks for a cloud's metadata service, which it does with usage statistics
switched off too, it answers nobody, for 2 to 12 s on a node without internet. A process of its own, since
importing ray then overlaps with the head's start, and Ray's client ends its process when the head goes.
"""

import json
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from raykd.cluster.slurm import Node

POLL_S = 0.05
REQUEST_TIMEOUT_S = 10


@dataclass(frozen=True)
class RayNode:
    """A node that Ray counts as alive, with the resources that it has told Ray."""

    address: str  # IP
    is_head: bool
    num_cpus: float
    num_gpus: float
    memory_bytes: float  # workers' memory and the object store together


def mismatch(ray_nodes: Sequence[RayNode], nodes: Sequence[Node]) -> str:
    """How the cluster differs from the job ('2 CPUs where the job has 4'), or '' when it does not."""
    pairs = [
        ("nodes", len(ray_nodes), len(nodes)),
        ("CPUs", sum(node.num_cpus for node in ray_nodes), sum(node.num_cpus for node in nodes)),
        ("GPUs", sum(node.num_gpus for node in ray_nodes), sum(node.num_gpus for node in nodes)),
    ]
    if all(node.memory_bytes is not None for node in nodes):
        memory_bytes = sum(node.memory_bytes or 0 for node in nodes)
        pairs.append(("bytes of memory", sum(node.memory_bytes for node in ray_nodes), memory_bytes))
    return ", ".join(f"{ray:.0f} {name} where the job has {job}" for name, ray, job in pairs if ray != job)


def parse_nodes(line: str) -> list[RayNode]:
    """What `main` printed."""
    return [RayNode(**fields) for fields in json.loads(line)]


def main(address: str, num_nodes: int) -> None:
    """Print the nodes once at least `num_nodes` are alive. Waits for ever: the caller has the time limit."""
    # The client that `ray status` uses; there is no public one. pyright cannot see into the compiled module.
    from ray._raylet import GcsClient  # pyright: ignore[reportAttributeAccessIssue]

    host, port = address.split(":")
    while not _accepts(host, int(port)):  # the client itself would wait in steps of seconds
        time.sleep(POLL_S)
    client = GcsClient(address=address)
    while len(nodes := _alive_nodes(client)) < num_nodes:
        time.sleep(POLL_S)
    print(json.dumps([asdict(node) for node in nodes]))


def _accepts(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=REQUEST_TIMEOUT_S).close()
    except OSError:
        return False
    return True


def _alive_nodes(client: Any) -> list[RayNode]:
    """[] also when the call breaks off, as one made while the store still starts may."""
    from ray.exceptions import RpcError

    try:
        infos = client.get_all_node_info(timeout=REQUEST_TIMEOUT_S).values()
    except RpcError:
        return []
    return [_ray_node(info) for info in infos if info.state == info.ALIVE]


def _ray_node(info: Any) -> RayNode:
    resources = info.resources_total
    return RayNode(
        address=info.node_manager_address,
        is_head=info.is_head_node,
        num_cpus=resources.get("CPU", 0),
        num_gpus=resources.get("GPU", 0),
        memory_bytes=resources.get("memory", 0) + resources.get("object_store_memory", 0),
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
