"""torch's process group for the workers of a TorchTrainer, without a port that other users could write to.

With Ray's TorchConfig torch starts a TCPStore for every trainer. It listens on all interfaces, and every client can
write keys without a secret. Here a single worker starts no process group, and several use a FileStore in a private
folder. Only the connections of gloo and NCCL remain, on the interface that leads to the other workers. They are not
authenticated, so what is unpickled from them is signed with a secret that all workers receive over Ray.
"""

import os
import secrets
import uuid
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import ray
import ray.train
import ray.train.torch
import torch.distributed as dist
from ray.exceptions import GetTimeoutError
from ray.train.backend import Backend
from ray.train.torch import TorchConfig

from raykd.cluster.node_address import interface_of, socket_variables
from raykd.training.compute import device_for
from raykd.training.group import STUCK
from raykd.training.messages import share_secret

SECRET_BYTES = 32
LEAVE_S = 30.0  # how long workers may take to leave the group; after the loss of one of them they may wait without end


@dataclass
class GroupConfig(TorchConfig):
    """A TorchConfig with a folder for the FileStore. All nodes must see it, with file locks. It has mode 0700."""

    folder: str = ""

    @classmethod
    def of_workers(cls, gpus: float, storage: Path, timeout: timedelta = STUCK) -> Self:
        """Return the configuration of workers with `gpus` GPUs: gradients between GPUs use NCCL, all else gloo."""
        backend = "cpu:gloo,cuda:nccl" if gpus else "gloo"
        return cls(backend=backend, timeout_s=int(timeout.total_seconds()), folder=str(storage / "groups"))

    @property
    def backend_cls(self) -> type[Backend]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _GroupBackend

    @property
    def train_func_context(self) -> type[AbstractContextManager[None]]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return nullcontext  # see `assigned_gpu`


def assigned_gpu(gpus: float) -> AbstractContextManager[Any]:
    """Make the GPU that Ray has assigned to this worker the current one of this thread. It stays so after the context.

    gpus: of the worker; 0 looks for no GPU. Entering the context raises CUDA's errors, for example if another program
    uses a GPU in exclusive mode. By default Ray Train enters it before the workers' function. An error there would
    belong to no job, and Train would replace the workers many times without a line in the log.
    """
    return TorchConfig().train_func_context() if gpus else nullcontext()


class _GroupBackend(Backend):
    """Ray Train's backend. It runs in the trainer's controller."""

    share_cuda_visible_devices = True  # NCCL connects the GPUs of a node only if each worker sees all of them

    def on_start(self, worker_group, backend_config: GroupConfig) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Start the process group on all workers; for one worker, set only the variables that torchrun sets."""
        worker_group.execute(_set_variables)
        if (size := len(worker_group)) == 1:
            return
        folder = Path(backend_config.folder).absolute()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        store = folder / uuid.uuid4().hex  # new for each start, which must not read the keys of an earlier one
        is_one_node = len(set(worker_group.execute(ray.util.get_node_ip_address))) == 1
        secret = secrets.token_bytes(SECRET_BYTES)
        joining: list[Any] = [
            worker_group.execute_single_async(rank, _join, rank, size, backend_config, str(store), secret, is_one_node)
            for rank in range(size)
        ]
        ray.get(joining)

    def on_shutdown(self, worker_group, backend_config: GroupConfig) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Let all workers leave the process group. Ray kills them afterwards."""
        if len(worker_group) > 1:
            leaving: list[Any] = worker_group.execute_async(_leave)
            with suppress(GetTimeoutError):
                ray.get(leaving, timeout=LEAVE_S)


def _set_variables() -> None:
    """Set the variables that torchrun sets; this runs in each worker.

    LOCAL_RANK is the number of the worker's GPU among those that it sees. From 2.15 on, torch binds NCCL to that GPU
    when the group starts.
    """
    context, gpu = ray.train.get_context(), ray.train.torch.get_device().index
    os.environ |= {
        "RANK": str(context.get_world_rank()),
        "WORLD_SIZE": str(context.get_world_size()),
        "LOCAL_RANK": str(context.get_local_rank() if gpu is None else gpu),
        "LOCAL_WORLD_SIZE": str(context.get_local_world_size()),
        "NODE_RANK": str(context.get_node_rank()),
    }


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _join(rank: int, size: int, config: GroupConfig, store: str, secret: bytes, is_one_node: bool) -> None:
    """Join the process group; this runs in each worker. store: path of the FileStore. secret: see messages.py.

    gloo and NCCL use loopback on one node, else the interface of this node's address in Ray. By default gloo would use
    the address to which the node resolves its own name, often 127.0.1.1. Variables that the user has set are kept.
    """
    if "nccl" in str(config.backend):
        device_for(1.0)  # raises UnusableGpu, with the remedy
    share_secret(secret)
    if interface := "lo" if is_one_node else interface_of(ray.util.get_node_ip_address()):
        for variable, value in socket_variables(interface).items():
            os.environ.setdefault(variable, value)
    dist.init_process_group(
        config.backend,
        store=dist.FileStore(store, size),  # pyright: ignore[reportPrivateImportUsage]
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=config.timeout_s),
    )
