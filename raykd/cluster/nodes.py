"""The nodes that are alive in Ray's GCS, printed whenever they change.

    python -m raykd.cluster.nodes 127.0.0.1:24000        one line of JSON per change, until the head ends

The dashboard is not used: while it looks for a cloud's metadata service, even with usage statistics disabled, it
answers no request for 2 to 12 s on a node without internet. This is a separate process, so that importing ray overlaps
with the head's start, and because Ray's client ends its process when the head ends.
"""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from raykd.cluster.allocation import Node
from raykd.cluster.ports import accepts_connections

POLL_S = 0.05
SETTLED_POLL_S = 1.0  # after SETTLED_S without a change
SETTLED_S = 60.0
REQUEST_TIMEOUT_S = 10


@dataclass(frozen=True)
class RayNode:
    """A node that is alive in Ray, with its resources there."""

    name: str  # the node's name in Slurm
    address: str  # IP
    is_head: bool
    num_cpus: float
    num_gpus: float
    memory_bytes: float  # workers' memory and the object store together


def mismatch(ray_nodes: Sequence[RayNode], nodes: Sequence[Node]) -> str:
    """Return how Ray differs from the job, such as 'cn1 has 2 CPUs in Ray and 4 in the job'; '' if it does not."""
    by_name = {node.name: node for node in ray_nodes}
    unexpected = sorted(set(by_name) - {node.name for node in nodes})
    differences = [f"{name} is in Ray and not in the job" for name in unexpected]
    for node in nodes:
        ray = by_name.get(node.name)
        if ray is None:
            differences.append(f"{node.name} is in the job and not in Ray")
            continue
        resources = [("CPUs", ray.num_cpus, node.num_cpus), ("GPUs", ray.num_gpus, node.num_gpus)]
        if node.memory_bytes is not None:
            resources.append(("bytes of memory", ray.memory_bytes, node.memory_bytes))
        differences += [
            f"{node.name} has {in_ray:.0f} {resource} in Ray and {in_job:.0f} in the job"
            for resource, in_ray, in_job in resources
            if in_ray != in_job
        ]
    return ", ".join(differences)


def main(address: str) -> None:
    """Print the nodes whenever they change, without end: the caller has a time limit."""
    from raykd.cluster.ray_internals import GcsClient

    while not accepts_connections(address, REQUEST_TIMEOUT_S):  # the client would wait in steps of seconds
        time.sleep(POLL_S)
    client = GcsClient(address=address)
    printed, changed_at = None, time.monotonic()
    while True:
        nodes = _alive_nodes(client)
        if nodes is not None and nodes != printed:
            print(json.dumps([asdict(node) for node in nodes]), flush=True)
            printed, changed_at = nodes, time.monotonic()
        time.sleep(POLL_S if time.monotonic() - changed_at < SETTLED_S else SETTLED_POLL_S)


def _alive_nodes(client: Any) -> list[RayNode] | None:
    """Return the nodes sorted by name, or None if the call fails, which happens while the GCS starts."""
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
