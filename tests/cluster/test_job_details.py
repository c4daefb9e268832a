"""The output of scontrol of Slurm 22.05 and 24.05 about a job, and how it differs from the request."""

import re

import pytest

from raykd.cluster.allocation import MEBIBYTE, read_allocation, without_step_requests
from raykd.cluster.job_details import JobDetails, NodeAllocation, differences, gpu_counts, parse_details, unused_gpu
from raykd.errors import ConfigError

ONE = (
    "JobId=7 JobName=raykd Requeue=1 Restarts=2 BatchFlag=1 TRES=cpu=8,mem=32G,node=1,billing=8 JOB_GRES=gpu:h100:1 "
    "{nodes} MinCPUsNode=8 MinMemoryNode=32G {requests} Power="
)
ENVIRON = {
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NUM_NODES": "1",
    "SLURM_JOB_NODELIST": "cn1",
    "SLURM_CPUS_ON_NODE": "8",
    "SLURM_SUBMIT_DIR": "/home",
}
CN1 = "Nodes=cn1 CPU_IDs=0-7 Mem=32768 GRES=gpu:h100:1(IDX:0)"


def shown(requests: str = "TresPerNode=gres:gpu:1", nodes: str = CN1) -> JobDetails:
    details = parse_details(ONE.format(nodes=nodes, requests=requests), lambda text: ["cn1", "cn2"])
    assert details is not None
    return details


@pytest.mark.parametrize(
    ("gres", "counts"),
    [
        ("gpu:h100:2(IDX:0-1)", [2]),
        ("gpu:1(IDX:0)", [1]),
        ("gpu:a100:1(IDX:0),gpu:h100:2(IDX:1-2)", [1, 2]),
        ("gres:gpu:2,gres:gpu:1", [2, 1]),
        ("gres/gpu:2,gres/gpu:h100:1", [2, 1]),
        ("gpu:nvidia_a100-sxm4-80gb:4(IDX:0-3)", [4]),
        ("shard:4(IDX:0)", []),
        ("", []),
    ],
)
def test_gpus_are_counted_in_every_format_of_slurm(gres: str, counts: list[int]) -> None:
    assert gpu_counts(gres) == counts


def test_nodes_may_have_different_shares() -> None:
    details = shown(nodes=f"{CN1} Nodes=cn2 CPU_IDs=0-3 Mem=16384 GRES=gpu:h100:2(IDX:0-1)")
    assert details.allocations == {"cn1": NodeAllocation(1, 32768), "cn2": NodeAllocation(2, 16384)}
    assert (details.gpus_per_node, details.total_gpus, details.restarts) == ((1,), None, 2)


def test_nodes_with_the_same_share_are_one_entry() -> None:
    details = shown(nodes="Nodes=cn[1-2] CPU_IDs=0-7 Mem=4096 GRES=")
    assert details.allocations == dict.fromkeys(("cn1", "cn2"), NodeAllocation(0, 4096))


def test_an_unknown_format_returns_none() -> None:
    assert parse_details("JobId=7 JobName=raykd", lambda text: []) is None


def test_scontrol_overrides_the_environment() -> None:
    outer = {"SLURM_MEM_PER_NODE": "1000", "SLURM_MEM_PER_CPU": "9000", "SLURM_GPUS": "6", "SLURM_GPUS_ON_NODE": "4"}
    allocation = read_allocation(ENVIRON | outer | {"SLURM_RESTART_COUNT": "9"}, details=shown())
    assert (allocation.head.num_gpus, allocation.head.memory_bytes) == (1, 32768 * MEBIBYTE)
    assert allocation.restart_count == 2


def test_nodes_of_one_job_may_have_different_numbers_of_gpus() -> None:
    environ = ENVIRON | {
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_NODELIST": "cn[1-2]",
        "SLURM_JOB_CPUS_PER_NODE": "8(x2)",
    }
    details = shown(nodes=f"{CN1} Nodes=cn2 CPU_IDs=0-7 Mem=16384 GRES=gpu:h100:2(IDX:0-1)")
    nodes = read_allocation(environ | {"SLURM_GPUS": "3"}, lambda text: ["cn1", "cn2"], details).nodes
    assert [(node.name, node.num_gpus, node.memory_bytes) for node in nodes] == [
        ("cn1", 1, 32768 * MEBIBYTE),
        ("cn2", 2, 16384 * MEBIBYTE),
    ]


def test_too_little_memory_is_refused_with_a_remedy() -> None:
    details = shown(nodes="Nodes=cn1 CPU_IDs=0-7 Mem=512 GRES=")
    with pytest.raises(
        ConfigError, match=r"^the job has 512 MiB on cn1, .* requires at least 2048 MiB; submit with --mem=8G"
    ):
        read_allocation(ENVIRON, details=details)


def test_the_requested_memory_is_used_if_slurm_does_not_manage_memory() -> None:
    details = shown(nodes="Nodes=cn1 CPU_IDs=0-7 Mem=0 GRES=gpu:2(IDX:0-1)")
    node = read_allocation(ENVIRON | {"SLURM_MEM_PER_NODE": "4096"}, details=details).head
    assert (node.num_gpus, node.memory_bytes) == (2, 4096 * MEBIBYTE)


@pytest.mark.parametrize(
    ("requests", "environ", "part"),
    [
        ("TresPerNode=gres:gpu:1", {}, ""),
        ("TresPerNode=gres:gpu:1", {"SLURM_GPUS_ON_NODE": "1", "SLURM_MEM_PER_NODE": "32768"}, ""),
        ("", {"SLURM_MEM_PER_CPU": "4096", "SLURM_MEM_PER_GPU": "32768", "SLURM_GPUS": "h100:1"}, ""),
        ("TresPerNode=gres:gpu:2,gres:gpu:1", {}, "2 GPUs per node requested, 1 allocated: .*--gres=gpu:2$"),
        ("TresPerNode=gres/gpu:2,gres/gpu:1", {"SLURM_GPUS_PER_NODE": "2"}, "2 GPUs per node requested, 1 alloc"),
        ("TresPerNode=gres:gpu:0,gres:gpu:1", {}, "0 GPUs per node requested, 1 allocated: .*--gres=none$"),
        ("TresPerJob=gres:gpu:0 TresPerNode=gres:gpu:1", {}, "0 GPUs requested by --gpus, 1 allocated: .*--gres=none$"),
        ("TresPerJob=gres:gpu:4", {}, "4 GPUs requested by --gpus, 1 allocated: .*--gres=gpu:N"),
        (
            "",
            {"SLURM_GPUS": "6"},
            "^SLURM_GPUS=6 in the environment: ignored, .* 8 CPUs, 32768 MiB, 1 GPU on this node",
        ),
        ("", {"SLURM_MEM_PER_CPU": "100", "SLURM_GPUS_PER_NODE": "a100:2"}, "^SLURM_GPUS_PER_NODE=a100:2, SLURM_MEM_"),
    ],
)
def test_a_difference_is_one_sentence_with_a_remedy(requests: str, environ: dict[str, str], part: str) -> None:
    sentences = differences(shown(requests), environ, "cn1", 8)
    assert len(sentences) == bool(part)
    if part:
        assert re.search(part, sentences[0]) and "\n" not in sentences[0], sentences


def test_a_whole_node_may_have_more_gpus_than_requested() -> None:
    details = shown(nodes="Nodes=cn1 CPU_IDs=0-15 Mem=32768 GRES=gpu:h100:2(IDX:0-1)")
    assert differences(details, {"SLURM_GPUS_ON_NODE": "2"}, "cn1", 16) == []


def test_steps_inherit_no_request_of_this_or_another_job() -> None:
    requests = [
        "SLURM_GPUS",
        "SLURM_GPUS_PER_NODE",
        "SLURM_GPUS_PER_TASK",
        "SLURM_CPUS_PER_GPU",
        "SLURM_CPUS_PER_TASK",
        "SRUN_CPUS_PER_TASK",
        "SLURM_MEM_PER_CPU",
        "SLURM_MEM_PER_GPU",
        "SLURM_MEM_PER_NODE",
        "SLURM_GRES",
        "SLURM_NTASKS",
        "SLURM_NPROCS",
        "SLURM_NTASKS_PER_NODE",
        "SLURM_TRES_PER_TASK",
        "SLURM_CONSTRAINT",
        "SLURM_EXCLUSIVE",
        "SLURM_DISTRIBUTION",
        "SLURM_CPU_BIND",
        "SLURM_CPU_BIND_LIST",
        "SLURM_CPU_BIND_TYPE",
        "SLURM_CPU_BIND_VERBOSE",
        "SLURM_MEM_BIND",
        "SLURM_MEM_BIND_LIST",
    ]
    kept = dict.fromkeys(
        ("SLURM_JOB_ID", "SLURM_CONF", "SLURM_GPUS_ON_NODE", "SLURM_JOB_GPUS", "SLURM_SUBMIT_DIR"), "1"
    )
    assert without_step_requests(dict.fromkeys(requests, "1") | kept) == kept


@pytest.mark.parametrize(
    ("gres", "environ", "num_gpus", "reason"),
    [
        ("shard:1(0/4)", {}, 0, "--gres=shard:1 is part of a GPU"),
        ("mps:h100:50", {}, 0, "--gres=mps:h100:50 is part of a GPU"),
        ("", {"CUDA_VISIBLE_DEVICES": "0"}, 0, "CUDA_VISIBLE_DEVICES=0, but the job has no GPU"),
        ("", {"CUDA_VISIBLE_DEVICES": ""}, 0, ""),
        ("", {"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, 0, ""),
        ("gpu:h100:1(IDX:0)", {"CUDA_VISIBLE_DEVICES": "0"}, 1, ""),
    ],
)
def test_a_gpu_that_ray_does_not_count_is_reported(
    gres: str, environ: dict[str, str], num_gpus: int, reason: str
) -> None:
    details = shown(nodes=f"Nodes=cn1 CPU_IDs=0-7 Mem=32768 GRES={gres}")
    text = unused_gpu(details, environ, "cn1", num_gpus)
    assert text.startswith(reason) and bool(text) == bool(reason)
    assert unused_gpu(None, environ, "cn1", num_gpus) == (text if environ else "")
