"""Which ports a run's workers open: none of torch's that another user could reach or write to."""

import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import pytest
import torch
from experiment_runs import run_here, wait_until
from small_runs import experiment, recipe

from raykd.errors import Interrupted, RunFailed
from raykd.spec.experiment import Workers

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray")]

LOOPBACK = ("127.0.0.1", "::1")
CLIENT_S = 10  # how long a client waits for an answer
CLIENT = """
import sys
from torch.distributed import TCPStore
print("started", flush=True)
store = TCPStore("127.0.0.1", int(sys.argv[1]), None, False)
store.set("key", "of another user")
print("written", flush=True)
"""


@dataclass
class Observed:
    """Observed while a run trained: listening sockets (host, port) of each process, and ports that accepted a key."""

    workers: list[set[tuple[str, int]]] = field(default_factory=list)
    other: set[tuple[str, int]] = field(default_factory=set)  # of a Ray actor without torch
    written: list[int] = field(default_factory=list)  # ports that accepted a key from another process
    folder_modes: list[int] = field(default_factory=list)
    error: BaseException | None = None


def listening(pid: int) -> set[tuple[str, int]]:
    found = psutil.Process(pid).net_connections(kind="tcp")
    return {(connection.laddr.ip, connection.laddr.port) for connection in found if connection.status == "LISTEN"}


def reachable(sockets: set[tuple[str, int]]) -> set[tuple[str, int]]:
    """Return the sockets that another machine can connect to."""
    return {(host, port) for host, port in sockets if host not in LOOPBACK}


def ports_that_accept_a_key(ports: list[int]) -> list[int]:
    """Return the ports that accept a key immediately, as a TCPStore does. Another listener may never answer."""
    clients = {
        port: subprocess.Popen([sys.executable, "-c", CLIENT, str(port)], stdout=subprocess.PIPE) for port in ports
    }
    for client in clients.values():
        assert client.stdout is not None and client.stdout.readline() == b"started\n"
        with suppress(subprocess.TimeoutExpired):
            client.wait(CLIENT_S)
        client.kill()
    return [port for port, client in clients.items() if b"written" in client.communicate()[0]]


def alive(class_name: str) -> list[int]:
    from ray.util.state import list_actors

    found: list[Any] = list_actors(filters=[("state", "=", "ALIVE")])
    return [actor.pid for actor in found if class_name in actor.class_name and actor.pid]


def observe_and_stop(results: Path, log: io.StringIO, workers: int, observed: Observed) -> None:
    """Observe the workers after the run's first epoch, then stop the command."""
    try:
        observe_workers(results, log, workers, observed)
    except BaseException as error:  # noqa: BLE001 - raised again by the test
        observed.error = error
    finally:
        if callable(signal.getsignal(signal.SIGTERM)):  # the command's handler, which saves and ends
            os.kill(os.getpid(), signal.SIGTERM)


def observe_workers(results: Path, log: io.StringIO, workers: int, observed: Observed) -> None:
    wait_until(lambda: "  epoch" in log.getvalue(), "the first epoch")
    pids = alive("RayTrainWorker")
    assert len(pids) == workers
    (queue,) = alive("RunQueue")
    observed.other = listening(queue)
    workers_sockets = [listening(pid) for pid in pids]
    observed.written = ports_that_accept_a_key([port for sockets in workers_sockets for _, port in sockets])
    observed.folder_modes = [path.stat().st_mode & 0o777 for path in (results / ".ray").glob("*/groups")]
    assert sorted(alive("RayTrainWorker")) == sorted(pids), "the workers were replaced meanwhile"
    observed.workers = workers_sockets


def run_and_observe(tmp_path: Path, workers: int) -> Observed:
    observed, log = Observed(), io.StringIO()
    long = replace(experiment(workers=Workers(count=workers), teacher=recipe(epochs=100_000)), seeds=(0,))
    observer = threading.Thread(target=observe_and_stop, args=(tmp_path, log, workers, observed), daemon=True)
    observer.start()
    ended = run_here([long], tmp_path, stages=("teacher",), log=log)
    observer.join(60)
    if observed.error:
        raise observed.error
    assert ended.exit_code == Interrupted.exit_code, ended.errors
    assert len(observed.workers) == workers and observed.other
    return observed


@pytest.fixture(scope="module")
def observed_with(cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Observed]:
    made: dict[int, Observed] = {}

    def of(workers: int) -> Observed:
        if workers not in made:
            made[workers] = run_and_observe(tmp_path_factory.mktemp("results"), workers)
        return made[workers]

    return of


@pytest.mark.nightly
def test_one_worker_opens_no_port_in_addition_to_rays(observed_with: Callable[[int], Observed]) -> None:
    observed = observed_with(1)
    (worker,) = observed.workers
    assert len(worker) == len(observed.other), f"{worker} and, of an actor without torch, {observed.other}"


@pytest.mark.nightly
def test_two_workers_on_one_node_open_no_port_that_another_machine_reaches(
    observed_with: Callable[[int], Observed],
) -> None:
    observed = observed_with(2)
    for worker in observed.workers:
        assert len(reachable(worker)) == len(reachable(observed.other)), f"{worker} and {observed.other}"
    assert any(len(worker) > len(observed.other) for worker in observed.workers), "gloo does not listen"


@pytest.mark.nightly
@pytest.mark.parametrize("workers", [1, 2])
def test_no_other_process_can_write_keys(observed_with: Callable[[int], Observed], workers: int) -> None:
    assert observed_with(workers).written == []


def test_another_process_can_write_to_a_tcp_store() -> None:
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    assert ports_that_accept_a_key([store.port]) == [store.port]


@pytest.mark.nightly
def test_workers_share_a_folder_that_only_this_user_can_enter(observed_with: Callable[[int], Observed]) -> None:
    assert observed_with(2).folder_modes == [0o700]


@pytest.mark.parametrize("visible", ["10,2", "GPU-aa,GPU-bb"])
def test_torch_binds_nccl_to_the_gpu_that_ray_has_assigned(
    visible: str, cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From 2.15 on, torch binds it when the group starts, to GPU number LOCAL_RANK.

    Ray sorts workers by the numbers of their GPUs, and the visible GPUs as text.
    """
    import ray.train
    import ray.train.torch
    from ray.air._internal.device_manager.nvidia_gpu import CUDATorchDeviceManager
    from torch.distributed import distributed_c10d

    from raykd.orchestration.process_group import _set_variables

    second = visible.split(",")[1]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(ray, "get_gpu_ids", lambda: [second])
    monkeypatch.setattr(ray.train.torch, "get_device", lambda: CUDATorchDeviceManager().get_devices()[0])
    monkeypatch.setattr(ray.train, "get_context", lambda: mock.Mock(get_local_rank=lambda: 0))
    with mock.patch.dict(os.environ):
        _set_variables()
        assert os.environ["LOCAL_RANK"] == "1"
        if hasattr(distributed_c10d, "_nccl2_device"):
            monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
            group = mock.Mock(enable_reconfigure=False, process_group=None)
            assert distributed_c10d._nccl2_device(group) == torch.device("cuda", 1)


def test_workers_without_gpus_have_their_local_rank(cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray.train
    import ray.train.torch

    from raykd.orchestration.process_group import _set_variables

    monkeypatch.setattr(ray.train.torch, "get_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(ray.train, "get_context", lambda: mock.Mock(get_local_rank=lambda: 3))
    with mock.patch.dict(os.environ):
        _set_variables()
        assert os.environ["LOCAL_RANK"] == "3"


def test_workers_whose_gpus_torch_cannot_use_fail_with_the_remedy_before_they_join(
    cluster: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """NCCL's error would be 'requires at least one CUDA device'."""
    from raykd.orchestration.process_group import GroupConfig, _join
    from raykd.training.failure import UnusableGpu

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = GroupConfig.of_workers(1.0, tmp_path)
    with mock.patch.dict(os.environ), pytest.raises(UnusableGpu, match=r"install a torch .* --set workers.gpus=0"):
        _join(0, 2, config, str(tmp_path / "store"), b"secret", is_one_node=True)


def test_the_error_of_a_trainer_is_one_line_without_rays_wrappers(cluster: str) -> None:
    import ray
    from ray.exceptions import RayTaskError
    from ray.train import ControllerError, WorkerGroupError
    from ray.train.v2._internal.exceptions import UserExceptionWithTraceback

    from raykd.orchestration.trainers import reason_of_trainer

    @ray.remote(num_cpus=0, max_retries=0)
    def join() -> None:
        raise RuntimeError("nccl2 requires at least one CUDA device\nmore")

    with pytest.raises(RayTaskError) as raised:
        ray.get(join.remote())
    lost = UserExceptionWithTraceback(RunFailed("the teacher's file is damaged"), "Traceback ...")
    reasons = [
        reason_of_trainer(error) for error in (ControllerError(raised.value), WorkerGroupError("...", {1: lost}))
    ]
    assert reasons == [
        "its trainer failed: RuntimeError: nccl2 requires at least one CUDA device",
        "its trainer failed: the teacher's file is damaged",
    ]
