"""Reading an Allocation from SLURM_*: every way to request memory and GPUs, and what is refused."""

from pathlib import Path

import pytest

from raykd.cluster.allocation import MEBIBYTE, Allocation, Node, read_allocation
from raykd.errors import ConfigError

ENVIRON = {
    "SLURM_JOB_ID": "4711",
    "SLURM_JOB_NUM_NODES": "1",
    "SLURM_JOB_NODELIST": "cn1",
    "SLURM_CPUS_ON_NODE": "8",
    "SLURM_GPUS_ON_NODE": "2",
    "SLURM_MEM_PER_NODE": "32768",
    "SLURM_SUBMIT_DIR": "/home/ada/raykd",
}


def test_a_job_of_one_node_is_read() -> None:
    node = Node("cn1", num_cpus=8, num_gpus=2, memory_bytes=32768 * MEBIBYTE)
    assert read_allocation(ENVIRON) == Allocation(4711, (node,), Path("/home/ada/raykd"), 0, "4711")


def test_a_task_of_a_job_array_that_has_the_id_of_the_array_is_named_by_its_index() -> None:
    task = {"SLURM_ARRAY_JOB_ID": "4711", "SLURM_ARRAY_TASK_ID": "2"}
    assert read_allocation(ENVIRON | task).slurm_id == "4711_2"
    assert read_allocation(ENVIRON | task | {"SLURM_JOB_ID": "4713"}).slurm_id == "4713", "also in a job of its shell"


def test_a_heterogeneous_job_is_refused_and_one_submitted_in_its_shell_is_not() -> None:
    heterogeneous = {"SLURM_HET_SIZE": "2", "SLURM_JOB_ID_HET_GROUP_0": "4711", "SLURM_JOB_ID_HET_GROUP_1": "4712"}
    with pytest.raises(ConfigError, match=r"^SLURM_HET_SIZE = 2: .*; submit without ':' between options$"):
        read_allocation(ENVIRON | heterogeneous)
    assert read_allocation(ENVIRON | heterogeneous | {"SLURM_JOB_ID": "4800"}).job_id == 4800


def test_restarts_are_counted() -> None:
    assert read_allocation(ENVIRON | {"SLURM_RESTART_COUNT": "1"}).restart_count == 1


@pytest.mark.parametrize(
    ("variables", "memory_mib"),
    [
        ({"SLURM_MEM_PER_NODE": "4096"}, 4096),
        ({"SLURM_MEM_PER_CPU": "1500"}, 1500 * 8),
        ({"SLURM_MEM_PER_GPU": "10000"}, 10000 * 2),
    ],
)
def test_memory_is_per_node_cpu_or_gpu(variables: dict[str, str], memory_mib: int) -> None:
    environ = {name: value for name, value in ENVIRON.items() if name != "SLURM_MEM_PER_NODE"}
    assert read_allocation(environ | variables).head.memory_bytes == memory_mib * MEBIBYTE


def test_a_job_with_a_whole_node_has_no_memory_limit() -> None:
    environ = {name: value for name, value in ENVIRON.items() if name != "SLURM_MEM_PER_NODE"}
    assert read_allocation(environ).head.memory_bytes is None


@pytest.mark.parametrize(("indices", "num_gpus"), [({"SLURM_JOB_GPUS": "0,3"}, 2), ({}, 0)])
def test_gpus_are_counted_if_slurm_does_not_count_them(indices: dict[str, str], num_gpus: int) -> None:
    environ = {name: value for name, value in ENVIRON.items() if name != "SLURM_GPUS_ON_NODE"}
    assert read_allocation(environ | indices).head.num_gpus == num_gpus


@pytest.mark.parametrize("variable", ["SLURM_JOB_ID", "SLURM_CPUS_ON_NODE", "SLURM_SUBMIT_DIR"])
def test_a_missing_variable_is_named_with_the_command_to_submit(variable: str) -> None:
    environ = {name: value for name, value in ENVIRON.items() if name != variable}
    with pytest.raises(ConfigError, match=rf"^{variable} is not set: .*sbatch slurm/ray_cluster.slurm"):
        read_allocation(environ)


def test_a_value_that_is_not_a_number_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^SLURM_CPUS_ON_NODE = '8\(x2\)': must be an integer"):
        read_allocation(ENVIRON | {"SLURM_CPUS_ON_NODE": "8(x2)"})


SEVERAL = ENVIRON | {
    "SLURM_JOB_NUM_NODES": "3",
    "SLURM_JOB_NODELIST": "cn[1-3]",
    "SLURM_JOB_CPUS_PER_NODE": "8(x2),4",
    "SLURM_MEM_PER_NODE": "32768",
}


def three(nodelist: str) -> list[str]:
    assert nodelist == "cn[1-3]"
    return ["cn1", "cn2", "cn3"]


def test_a_job_of_several_nodes_is_read() -> None:
    nodes = read_allocation(SEVERAL, three).nodes
    assert [(node.name, node.num_cpus, node.num_gpus) for node in nodes] == [
        ("cn1", 8, 2),
        ("cn2", 8, 2),
        ("cn3", 4, 2),
    ]


def test_memory_per_cpu_is_counted_for_each_node() -> None:
    environ = {name: value for name, value in SEVERAL.items() if name != "SLURM_MEM_PER_NODE"}
    nodes = read_allocation(environ | {"SLURM_MEM_PER_CPU": "1000"}, three).nodes
    assert [node.memory_bytes for node in nodes] == [8000 * MEBIBYTE, 8000 * MEBIBYTE, 4000 * MEBIBYTE]


@pytest.mark.parametrize("total", ["6", "h100:6"])
def test_a_total_of_gpus_is_accepted_if_every_node_has_the_same_number(total: str) -> None:
    assert len(read_allocation(SEVERAL | {"SLURM_GPUS": total}, three).nodes) == 3


def test_a_total_of_gpus_is_refused_if_nodes_have_different_numbers() -> None:
    with pytest.raises(ConfigError, match=r"^SLURM_GPUS = 5: 3 nodes, 2 of the GPUs on this one.*--gres=gpu:N instead"):
        read_allocation(SEVERAL | {"SLURM_GPUS": "5"}, three)


@pytest.mark.parametrize("counts", ["8(x2)", "8(x4)", "8"])
def test_cpu_counts_for_another_number_of_nodes_are_refused(counts: str) -> None:
    with pytest.raises(ConfigError, match=r"^SLURM_JOB_NUM_NODES = 3: "):
        read_allocation(SEVERAL | {"SLURM_JOB_CPUS_PER_NODE": counts}, three)


def test_invalid_cpu_counts_are_named() -> None:
    with pytest.raises(ConfigError, match=r"^SLURM_JOB_CPUS_PER_NODE = 'eight'"):
        read_allocation(SEVERAL | {"SLURM_JOB_CPUS_PER_NODE": "eight"}, three)


def test_too_little_memory_is_refused_with_a_remedy() -> None:
    with pytest.raises(ConfigError, match=r"^SLURM_MEM_PER_NODE = 512: 512 MiB .* 2048 .*--mem=8G"):
        read_allocation(ENVIRON | {"SLURM_MEM_PER_NODE": "512"})
