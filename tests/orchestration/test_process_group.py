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

import psutil
import pytest
from experiment_runs import run_here, wait_until
from small_runs import experiment, recipe

from raykd.errors import Interrupted
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
