"""The head's command line and environment, the check of its resources, and the reason of its failure."""

import os
from pathlib import Path

import pytest

from raykd.cluster.folder import MAX_PATH_CHARACTERS, JobFolder
from raykd.cluster.head import driver_environment, head_command, likely_reason, ray_environment
from raykd.cluster.nodes import RayNode, mismatch
from raykd.cluster.ports import Ports
from raykd.cluster.slurm import Allocation, Node

GIBIBYTE = 1024**3
FOLDER = JobFolder(Path("/tmp/rk-1000-4711"))
PORTS = Ports(20_000, 20_001, 20_002, 20_003)


def command(memory_bytes: int | None = 10 * GIBIBYTE, free_shm_bytes: int = 100 * GIBIBYTE) -> list[str]:
    allocation = Allocation(4711, (Node("cn1", 8, 2, memory_bytes),), Path("/home/ada/raykd"), 0)
    return head_command(allocation, PORTS, FOLDER, free_shm_bytes)


def option(words: list[str], name: str) -> str:
    """The value of --name=value; fails when it is not there exactly once."""
    (value,) = [word.split("=", 1)[1] for word in words if word.startswith(f"--{name}=")]
    return value


def test_head_is_told_what_the_job_has() -> None:
    words = command()
    assert words[:2] == ["srun", "--overlap"]
    assert (option(words, "num-cpus"), option(words, "num-gpus"), option(words, "nodelist")) == ("8", "2", "cn1")
    assert (option(words, "cpus-per-task"), option(words, "gres")) == ("8", "gpu:2")


def test_head_has_its_own_ports_and_folder_and_a_local_dashboard() -> None:
    words = command()
    names = ("port", "dashboard-port", "ray-client-server-port", "dashboard-agent-listen-port")
    assert [option(words, name) for name in names] == ["20000", "20001", "20002", "20003"]
    assert option(words, "temp-dir") == "/tmp/rk-1000-4711/r"
    assert option(words, "dashboard-host") == "127.0.0.1"


def test_memory_and_object_store_are_the_jobs_memory_together() -> None:
    words = command(memory_bytes=10 * GIBIBYTE)
    object_store_bytes = int(option(words, "object-store-memory"))
    assert object_store_bytes == 3 * GIBIBYTE
    assert int(option(words, "memory")) + object_store_bytes == 10 * GIBIBYTE


def test_object_store_fits_into_shared_memory() -> None:
    words = command(memory_bytes=10 * GIBIBYTE, free_shm_bytes=GIBIBYTE)
    assert int(option(words, "object-store-memory")) == int(0.9 * GIBIBYTE)
    assert int(option(words, "memory")) == 10 * GIBIBYTE - int(0.9 * GIBIBYTE)


def test_whole_node_is_measured_by_ray_itself() -> None:
    assert not [word for word in command(memory_bytes=None) if "memory" in word]


def test_largest_user_and_job_ids_leave_room_for_rays_sockets() -> None:
    longest = JobFolder(Path(f"/tmp/rk-{2**32 - 1}-{2**26 - 1}"))
    assert len(str(longest.ray_path)) <= MAX_PATH_CHARACTERS


def test_head_starts_with_the_jobs_token_and_without_an_address() -> None:
    environ = {"RAY_ADDRESS": "10.0.0.1:6379", "RAY_AUTH_TOKEN": "another", "PYTHONPATH": "/lib/mine", "HOME": "/root"}
    shared = ray_environment(environ, FOLDER, Path("/home/ada/raykd"))
    assert not {"RAY_ADDRESS", "RAY_AUTH_TOKEN"} & set(shared)
    assert (shared["RAY_AUTH_MODE"], shared["RAY_AUTH_TOKEN_PATH"]) == ("token", "/tmp/rk-1000-4711/token")
    assert shared["PYTHONPATH"].split(os.pathsep) == ["/home/ada/raykd", "/lib/mine"]
    assert shared["HOME"] == "/root"


def test_driver_has_the_heads_environment_and_its_address() -> None:
    shared = ray_environment({}, FOLDER, Path("/home/ada/raykd"))
    environment = driver_environment(shared, "10.0.0.2:20000")
    assert environment["RAY_ADDRESS"] == "10.0.0.2:20000"
    assert shared.items() <= environment.items()


@pytest.mark.parametrize(
    ("ray", "expected"),
    [
        (RayNode("10.0.0.2", True, 8, 2, 10 * GIBIBYTE), ""),
        (RayNode("10.0.0.2", True, 64, 2, 10 * GIBIBYTE), "64 CPUs where the job has 8"),
        (RayNode("10.0.0.2", True, 8, 0, GIBIBYTE), "0 GPUs where the job has 2, "),
    ],
)
def test_cluster_that_is_not_the_job_is_noticed(ray: RayNode, expected: str) -> None:
    difference = mismatch([ray], [Node("cn1", 8, 2, 10 * GIBIBYTE)])
    assert difference.startswith(expected)
    assert bool(difference) == bool(expected)


def test_missing_node_is_noticed_and_unlimited_memory_is_not_compared() -> None:
    nodes = [Node("cn1", 8, 2, None), Node("cn2", 8, 2, None)]
    difference = mismatch([RayNode("10.0.0.2", True, 16, 4, GIBIBYTE)], nodes)
    assert difference == "1 nodes where the job has 2"


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["Traceback ...", "ValueError: port taken", "srun: error: cn1: task 0: Exited"], "ValueError: port taken"),
        (["srun: error: Unable to create step"], "srun: error: Unable to create step"),
        (
            [
                "2026-11-22 20:13:07,872\tERR scripts.py:1290 -- Some Ray subprocesses exited unexpectedly:",
                "2026-11-22 20:13:07,872\tERR scripts.py:1297 -- gcs_server [exit code=-9]",
                "2026-11-22 20:13:07,872\tERR scripts.py:1315 -- Remaining processes will be killed.",
            ],
            "Some Ray subprocesses exited unexpectedly: gcs_server [exit code=-9]",
        ),
        ([], "it printed nothing"),
    ],
)
def test_reason_is_rays_own_line(lines: list[str], reason: str) -> None:
    assert likely_reason(lines) == reason
