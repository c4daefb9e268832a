"""Which nodes Ray has, asked of its control store: a line when one comes or goes.

    python -m raykd.cluster.nodes 127.0.0.1:24000        one line of JSON a change, until it is ended or the head goes

Not of the dashboard: while it asks for a cloud's metadata service, which it does with usage statistics switched off
too, it answers nobody, for 2 to 12 s on a node without internet. A process of its own, since importing ray then
overlaps with the head's start, and Ray's client ends its process when the head goes.
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
SETTLED_POLL_S = 1.0  # once no node has come or gone for SETTLED_S
SETTLED_S = 60.0
REQUEST_TIMEOUT_S = 10


@dataclass(frozen=True)
class RayNode:
    """A node that Ray counts as alive, with the resources that it has told Ray."""

    name: str  # as Slurm has it
    address: str  # IP
    is_head: bool
    num_cpus: float
    num_gpus: float
    memory_bytes: float  # workers' memory and the object store together


def mismatch(ray_nodes: Sequence[RayNode], nodes: Sequence[Node]) -> str:
    """How the cluster differs from the job ('cn1 has 2 CPUs in Ray and 4 in the job'), or '' when it does not."""
    found = {node.name: node for node in ray_nodes}
    strangers = set(found) - {node.name for node in nodes}
    lines = [f"{name} is in Ray and not in the job" for name in sorted(strangers)]
    for node in nodes:
        ray = found.get(node.name)
        if ray is None:
            lines.append(f"{node.name} is in the job and not in Ray")
            continue
        pairs = [("CPUs", ray.num_cpus, node.num_cpus), ("GPUs", ray.num_gpus, node.num_gpus)]
        if node.memory_bytes is not None:
            pairs.append(("bytes of memory", ray.memory_bytes, node.memory_bytes))
        lines += [f"{node.name} has {a:.0f} {what} in Ray and {b:.0f} in the job" for what, a, b in pairs if a != b]
    return ", ".join(lines)


def parse_nodes(line: str) -> list[RayNode]:
    """What `main` printed."""
    return [RayNode(**fields) for fields in json.loads(line)]


def main(address: str) -> None:
    """Print the nodes whenever they change, for ever: the caller has the time limit."""
    # The client that `ray status` uses; there is no public one. pyright cannot see into the compiled module.
    from ray._raylet import GcsClient  # pyright: ignore[reportAttributeAccessIssue]

    host, port = address.split(":")
    while not _accepts(host, int(port)):  # the client itself would wait in steps of seconds
        time.sleep(POLL_S)
    client = GcsClient(address=address)
    said, changed_at = None, time.monotonic()
    while True:
        nodes = _alive_nodes(client)
        if nodes is not None and nodes != said:
            print(json.dumps([asdict(node) for node in nodes]), flush=True)
            said, changed_at = nodes, time.monotonic()
        time.sleep(POLL_S if time.monotonic() - changed_at < SETTLED_S else SETTLED_POLL_S)


def _accepts(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=REQUEST_TIMEOUT_S).close()
    except OSError:
        return False
    return True


def _alive_nodes(client: Any) -> list[RayNode] | None:
    """By name; None when the call breaks off, as one made while the store still starts may."""
    from ray.exceptions import RpcError

    try:
        infos = client.get_all_node_info(timeout=REQUEST_TIMEOUT_S).values()
    except RpcError:
        return None
    return sorted((_ray_node(info) for info in infos if info.state == info.ALIVE), key=lambda node: node.name)


def _ray_node(info: Any) -> RayNode:
    resources = info.resources_total
    return RayNode(
        name=info.node_name,
        address=info.node_manager_address,
        is_head=info.is_head_node,
        num_cpus=resources.get("CPU", 0),
        num_gpus=resources.get("GPU", 0),
        memory_bytes=resources.get("memory", 0) + resources.get("object_store_memory", 0),
    )


if __name__ == "__main__":
    main(sys.argv[1])
