"""torch's process group for the workers of a TorchTrainer, without a door that a stranger could open.

Ray's TorchConfig has torch start a TCPStore for every trainer. It listens on all interfaces, and whoever reaches it can
write keys, without a secret. Here one worker starts no process group, and several meet in a file of a private folder.
What remains on the network are the connections of gloo and NCCL, on the interface that leads to the other workers.
"""

import fcntl
import os
import socket
import struct
import uuid
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import ray
import torch.distributed as dist
from ray.train.torch import TorchConfig
from ray.train.torch.config import _set_torch_distributed_env_vars, _TorchBackend

LOOPBACK = "lo"
SIOCGIFADDR = 0x8915  # ioctl(2) of an interface: its IPv4 address, at byte 20 of the answer


@dataclass
class GroupConfig(TorchConfig):
    """folder: where the workers meet. All nodes must see it, with file locks. It is made for this user alone (0700)."""

    folder: str = ""

    @property
    def backend_cls(self) -> type[_TorchBackend]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _GroupBackend


class _GroupBackend(_TorchBackend):
    """Runs in the trainer's controller."""

    def on_start(self, worker_group, backend_config: GroupConfig) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Start the process group on all workers; for one worker, set only the variables that torchrun sets."""
        worker_group.execute(_set_torch_distributed_env_vars)
        size = len(worker_group)
        if size == 1:
            return
        folder = Path(backend_config.folder).absolute()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        meeting = folder / uuid.uuid4().hex  # of this start alone: the keys of an earlier one would be read as its own
        is_one_node = len(set(worker_group.execute(ray.util.get_node_ip_address))) == 1
        joining: list[Any] = [
            worker_group.execute_single_async(rank, _join, rank, size, backend_config, str(meeting), is_one_node)
            for rank in range(size)
        ]
        ray.get(joining)


def _join(rank: int, size: int, config: GroupConfig, meeting: str, is_one_node: bool) -> None:
    """Runs in each worker."""
    _choose_interface(is_one_node)
    dist.init_process_group(
        config.backend,
        store=dist.FileStore(meeting, size),  # pyright: ignore[reportPrivateImportUsage]
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=config.timeout_s),
    )


def _choose_interface(is_one_node: bool) -> None:
    """Have gloo and NCCL use loopback on one node, else the interface of this node's address in Ray.

    Otherwise gloo takes the address that the host's name has on the node itself, often 127.0.1.1. A variable that the
    user set is kept.
    """
    name = LOOPBACK if is_one_node else interface_of(ray.util.get_node_ip_address())
    if name:
        for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            os.environ.setdefault(variable, name)


def interface_of(address: str) -> str | None:
    """The interface that has an IPv4 address; None where none has."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(asking, SIOCGIFADDR, struct.pack("256s", name.encode()))
            except OSError:  # it has no IPv4 address
                continue
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    return None
