"""The command lines that start Ray on the nodes, and its environment."""

import os
from pathlib import Path

import pytest

from raykd.cluster import ray_start
from raykd.cluster.allocation import Node
from raykd.cluster.job_folder import JobFolder
from raykd.cluster.ports import Ports
from raykd.cluster.private_ray import MAX_TEMP_DIR_CHARACTERS
from raykd.cluster.ray_start import (
    driver_environment,
    free_shared_memory,
    is_shared,
    physical_memory_bytes,
    ray_environment,
    srun,
    start_head,
    start_worker,
)
from raykd.cluster.staging import Staging
from raykd.cluster.worker_node import worker_command
from raykd.config.local_modules import USER_PYTHON_PATH
from raykd.data.packs import node_copy
from raykd.errors import ConfigError

GIBIBYTE = 1024**3
FOLDER = JobFolder(Path("/tmp/rk-1000-4711"))
PORTS = Ports(20_000, 20_001, 20_002, 20_003)


def command(memory_bytes: int | None = 10 * GIBIBYTE, free_shm_bytes: int = 100 * GIBIBYTE) -> list[str]:
    return start_head(Node("cn1", 8, 2, memory_bytes), PORTS, FOLDER, free_shm_bytes)


def option(arguments: list[str], name: str) -> str:
    """Return the value of --name=value, which must be there exactly once."""
    (value,) = [argument.split("=", 1)[1] for argument in arguments if argument.startswith(f"--{name}=")]
    return value


def test_the_head_gets_the_resources_of_the_job() -> None:
    arguments = command()
    assert [option(arguments, name) for name in ("num-cpus", "num-gpus", "node-name")] == ["8", "2", "cn1"]


def test_a_step_has_all_resources_of_the_job_on_its_node() -> None:
    arguments = srun(Node("cn2", 8, 2, None), "ray-cn2")
    assert arguments[:2] == ["srun", "--overlap"]
    assert [option(arguments, name) for name in ("nodelist", "cpus-per-task", "gres")] == ["cn2", "8", "gpu:2"]
    assert not [argument for argument in srun(Node("cn2", 8, 0, None), "ray-cn2") if "gres" in argument]
    assert option(arguments, "mpi") == "none", "the site's default may be a PMI that fails without MPI"


def test_a_worker_joins_the_head_with_the_resources_of_the_job_on_its_node() -> None:
    arguments = start_worker("10.0.0.2:20000", Node("cn2", 4, 1, 10 * GIBIBYTE), PORTS, FOLDER, 100 * GIBIBYTE)
    assert option(arguments, "address") == "10.0.0.2:20000"
    assert [option(arguments, name) for name in ("num-cpus", "num-gpus", "node-name")] == ["4", "1", "cn2"]
    assert int(option(arguments, "memory")) + int(option(arguments, "object-store-memory")) == 10 * GIBIBYTE
    assert "--head" not in arguments and not [argument for argument in arguments if argument.startswith("--port")]


def test_no_command_line_holds_the_token() -> None:
    arguments = worker_command(Node("cn2", 4, 1, None), 1, 4711, "10.0.0.2:20000", None)
    assert arguments[0] == "srun" and not [argument for argument in arguments if "token" in argument]


def test_the_head_has_the_jobs_ports_and_folder_and_a_local_dashboard() -> None:
    arguments = command()
    names = ("port", "dashboard-port", "ray-client-server-port", "dashboard-agent-listen-port")
    assert [option(arguments, name) for name in names] == ["20000", "20001", "20002", "20003"]
    assert option(arguments, "temp-dir") == "/tmp/rk-1000-4711/ray"
    assert option(arguments, "dashboard-host") == "127.0.0.1"


def test_the_head_has_the_address_that_other_nodes_reach() -> None:
    arguments = start_head(Node("cn1", 8, 2, None), PORTS, FOLDER, GIBIBYTE, "10.0.0.2")
    assert option(arguments, "node-ip-address") == "10.0.0.2"
    assert not [argument for argument in command() if "node-ip" in argument]


def test_memory_and_object_store_together_are_the_jobs_memory() -> None:
    arguments = command(memory_bytes=10 * GIBIBYTE)
    object_store_bytes = int(option(arguments, "object-store-memory"))
    assert object_store_bytes == 3 * GIBIBYTE
    assert int(option(arguments, "memory")) + object_store_bytes == 10 * GIBIBYTE


def test_the_object_store_fits_into_shared_memory() -> None:
    arguments = command(memory_bytes=10 * GIBIBYTE, free_shm_bytes=GIBIBYTE)
    assert int(option(arguments, "object-store-memory")) == int(0.9 * GIBIBYTE)
    assert int(option(arguments, "memory")) == 10 * GIBIBYTE - int(0.9 * GIBIBYTE)


def test_a_node_without_shared_memory_is_reported_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_start, "SHARED_MEMORY", "/nowhere/shm")
    with pytest.raises(
        ConfigError, match=r"^/nowhere/shm cannot be read on \S+ \(No such file or directory\), and Ray"
    ):
        free_shared_memory()


def test_ray_reads_the_memory_of_a_whole_node() -> None:
    assert not [argument for argument in command(memory_bytes=None) if "memory" in argument]


def test_largest_user_and_job_ids_leave_room_for_rays_sockets() -> None:
    longest = JobFolder(Path(f"/tmp/rk-{2**32 - 1}-{2**26 - 1}-9999"))
    assert len(str(longest.ray_path)) <= MAX_TEMP_DIR_CHARACTERS


def test_the_head_starts_with_the_jobs_token_and_without_an_address() -> None:
    environ = {"RAY_ADDRESS": "10.0.0.1:6379", "RAY_AUTH_TOKEN": "another", "PYTHONPATH": "/lib/mine", "HOME": "/root"}
    shared = ray_environment(environ, FOLDER, Path("/home/ada/raykd"))
    assert not {"RAY_ADDRESS", "RAY_AUTH_TOKEN"} & set(shared)
    assert (shared["RAY_AUTH_MODE"], shared["RAY_AUTH_TOKEN_PATH"]) == ("token", "/tmp/rk-1000-4711/token")
    assert shared["PYTHONPATH"].split(os.pathsep) == ["/home/ada/raykd", "/lib/mine"]
    assert shared[USER_PYTHON_PATH] == "/lib/mine", "the user's packages, which are imported by their names"
    assert shared["HOME"] == "/root"


def test_cuda_numbers_gpus_as_slurm_does_unless_the_user_sets_another_order() -> None:
    """Slurm writes numbers in the order of PCI buses to CUDA_VISIBLE_DEVICES. CUDA's own order may differ."""
    orders = [
        ray_environment(environ, FOLDER, Path("/"))["CUDA_DEVICE_ORDER"]
        for environ in ({}, {"CUDA_DEVICE_ORDER": "FASTEST_FIRST"})
    ]
    assert orders == ["PCI_BUS_ID", "FASTEST_FIRST"]


def test_the_driver_has_the_heads_environment_and_address() -> None:
    shared = ray_environment({}, FOLDER, Path("/home/ada/raykd"))
    environment = driver_environment(shared, "10.0.0.2:20000")
    assert environment["RAY_ADDRESS"] == "10.0.0.2:20000"
    assert shared.items() <= environment.items()


def test_processes_read_staged_data_and_copy_packed_data_beside_it() -> None:
    staging = Staging(Path("/local/rk-1000-4711-files-0"), data=Path("/home/ada/data"))
    shared = ray_environment({"RAYKD_DATA": "/home/ada/data"}, FOLDER, Path("/"), staging=staging)
    assert shared["RAYKD_DATA"] == "/local/rk-1000-4711-files-0/data"
    assert shared[node_copy.NODE_DATA] == "/local/rk-1000-4711-files-0/packs"
    code_only = ray_environment({"RAYKD_DATA": "data"}, FOLDER, Path("/"), staging=Staging(Path("/local/x"), Path("/")))
    assert (code_only["RAYKD_DATA"], code_only[node_copy.NODE_DATA]) == ("data", "/local/x/packs")
    assert node_copy.NODE_DATA not in ray_environment({}, FOLDER, Path("/"))


@pytest.mark.parametrize("name", ["OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY"])
def test_no_process_is_bound_to_the_cpus_that_the_login_shell_names(name: str) -> None:
    """GNU OpenMP would bind the first thread of every process to the first CPU of the job."""
    environment = ray_environment({name: "0", "OMP_NUM_THREADS": "2"}, FOLDER, Path("/"))
    assert name not in environment and environment["OMP_NUM_THREADS"] == "2"


def test_rays_memory_monitor_is_off_where_other_jobs_may_fill_the_node() -> None:
    monitor, node_bytes = "RAY_memory_monitor_refresh_ms", 512 * GIBIBYTE
    memory = [Node("cn1", 8, 1, size) for size in (32 * GIBIBYTE, 500 * GIBIBYTE, None)]
    assert [is_shared(node, node_bytes) for node in memory] == [True, False, False]
    assert not is_shared(Node("cn1", 8, 1, physical_memory_bytes()), physical_memory_bytes())
    assert ray_environment({}, FOLDER, Path("/"), shares_memory=True)[monitor] == "0"
    assert monitor not in ray_environment({}, FOLDER, Path("/"))
    chosen = {"RAYKD_RAY_memory_monitor_refresh_ms": "250"}
    assert ray_environment(chosen, FOLDER, Path("/"), shares_memory=True)[monitor] == "250", "the user decides"


def test_a_node_starts_with_a_limited_number_of_idle_workers_unless_the_user_sets_another() -> None:
    name = "RAY_worker_maximum_startup_concurrency"
    assert ray_environment({}, FOLDER, Path("/"))[name] == "16"
    assert ray_environment({f"RAYKD_{name}": "2"}, FOLDER, Path("/"))[name] == "2"


def test_health_checks_are_shorter_on_several_nodes() -> None:
    one, several = (ray_environment({}, FOLDER, Path("/"), several_nodes=several) for several in (False, True))
    names = {name for name in several if name.startswith("RAY_health_check")}
    assert len(names) == 3 and not names & set(one)
    period, timeout, failures = (
        int(several[f"RAY_health_check_{name}"]) for name in ("period_ms", "timeout_ms", "failure_threshold")
    )
    assert (period + timeout) * failures <= 30_000
