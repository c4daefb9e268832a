"""What a run's workers open on the network: nothing of torch's that a stranger could reach or write to."""

import io
import os
import signal
import socket
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
STRANGER_S = 10  # for an answer, once it asks
STRANGER = """
import sys
from torch.distributed import TCPStore
print("began", flush=True)
store = TCPStore("127.0.0.1", int(sys.argv[1]), None, False)
store.set("key", "of a stranger")
print("written", flush=True)
"""


@dataclass
class Seen:
    """What was found while a run trained: listening sockets (host, port) of each process, and strangers' success."""

    workers: list[set[tuple[str, int]]] = field(default_factory=list)
    other: set[tuple[str, int]] = field(default_factory=set)  # of a Ray actor that has nothing to do with torch
    written: list[int] = field(default_factory=list)  # ports that took a key of a stranger's
    folder_modes: list[int] = field(default_factory=list)
    error: BaseException | None = None


def listening(pid: int) -> set[tuple[str, int]]:
    found = psutil.Process(pid).net_connections(kind="tcp")
    return {(connection.laddr.ip, connection.laddr.port) for connection in found if connection.status == "LISTEN"}


def reachable(sockets: set[tuple[str, int]]) -> set[tuple[str, int]]:
    """Those that another machine can connect to."""
    return {(host, port) for host, port in sockets if host not in LOOPBACK}


def written_by_stranger(ports: list[int]) -> list[int]:
    """The ports of TCPStores that took a key, which each does at once. Another listener may never answer."""
    strangers = {
        port: subprocess.Popen([sys.executable, "-c", STRANGER, str(port)], stdout=subprocess.PIPE) for port in ports
    }
    for stranger in strangers.values():
        assert stranger.stdout is not None and stranger.stdout.readline() == b"began\n"
        with suppress(subprocess.TimeoutExpired):
            stranger.wait(STRANGER_S)
        stranger.kill()
    return [port for port, stranger in strangers.items() if b"written" in stranger.communicate()[0]]


def alive(class_name: str) -> list[int]:
    from ray.util.state import list_actors

    found: list[Any] = list_actors(filters=[("state", "=", "ALIVE")])
    return [actor.pid for actor in found if class_name in actor.class_name and actor.pid]


def look(results: Path, log: io.StringIO, workers: int, seen: Seen) -> None:
    """Once a run has trained for an epoch; then stop it."""
    try:
        look_at_workers(results, log, workers, seen)
    except BaseException as error:  # noqa: BLE001 - raised again by the test
        seen.error = error
    finally:
        if callable(signal.getsignal(signal.SIGTERM)):  # the command's handler: it saves, and ends
            os.kill(os.getpid(), signal.SIGTERM)


def look_at_workers(results: Path, log: io.StringIO, workers: int, seen: Seen) -> None:
    wait_until(lambda: "  epoch" in log.getvalue(), "the first epoch")
    pids = alive("RayTrainWorker")
    assert len(pids) == workers
    (queue,) = alive("RunQueue")
    seen.other = listening(queue)
    workers_sockets = [listening(pid) for pid in pids]
    seen.written = written_by_stranger([port for sockets in workers_sockets for _, port in sockets])
    seen.folder_modes = [path.stat().st_mode & 0o777 for path in (results / ".ray").glob("*/groups")]
    assert sorted(alive("RayTrainWorker")) == sorted(pids), "they trained meanwhile"
    seen.workers = workers_sockets


def run_and_look(tmp_path: Path, workers: int) -> Seen:
    seen, log = Seen(), io.StringIO()
    long = replace(experiment(workers=Workers(count=workers), teacher=recipe(epochs=100_000)), seeds=(0,))
    looking = threading.Thread(target=look, args=(tmp_path, log, workers, seen), daemon=True)
    looking.start()
    ended = run_here([long], tmp_path, stages=("teacher",), log=log)
    looking.join(60)
    if seen.error:
        raise seen.error
    assert ended.exit_code == Interrupted.exit_code, ended.errors
    assert len(seen.workers) == workers and seen.other
    return seen


@pytest.fixture(scope="module")
def story(cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Seen]:
    made: dict[int, Seen] = {}

    def of(workers: int) -> Seen:
        if workers not in made:
            made[workers] = run_and_look(tmp_path_factory.mktemp("results"), workers)
        return made[workers]

    return of


def test_one_worker_opens_no_port_beside_rays_own(story: Callable[[int], Seen]) -> None:
    seen = story(1)
    (worker,) = seen.workers
    assert len(worker) == len(seen.other), f"{worker} and, of an actor without torch, {seen.other}"


def test_two_workers_of_one_node_open_none_that_another_machine_reaches(story: Callable[[int], Seen]) -> None:
    seen = story(2)
    for worker in seen.workers:
        assert len(reachable(worker)) == len(reachable(seen.other)), f"{worker} and {seen.other}"
    assert any(len(worker) > len(seen.other) for worker in seen.workers), "gloo listens: this looked at nothing"


@pytest.mark.parametrize("workers", [1, 2])
def test_no_stranger_can_write_keys(story: Callable[[int], Seen], workers: int) -> None:
    assert story(workers).written == []


def test_stranger_would_have_written_to_a_store() -> None:
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    assert written_by_stranger([store.port]) == [store.port]


def test_workers_meet_in_a_folder_of_this_user_alone(story: Callable[[int], Seen]) -> None:
    assert story(2).folder_modes == [0o700]


def test_interface_of_an_address_is_the_one_that_has_it(cluster: str) -> None:
    from raykd.orchestration.process_group import interface_of  # with ray, which is imported once `cluster` is there

    assert interface_of("127.0.0.1") == socket.if_indextoname(1) == "lo"
    assert interface_of("192.0.2.1") is None, "an address of documentation, RFC 5737"
