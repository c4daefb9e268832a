"""Comparison of the Ray cluster with the allocation."""

from dataclasses import replace

import pytest

from raykd.cluster.allocation import Node
from raykd.cluster.nodes import RayNode, mismatch

GIBIBYTE = 1024**3
JOB = [Node("cn1", 8, 2, 10 * GIBIBYTE), Node("cn2", 4, 2, 10 * GIBIBYTE)]
RAY = [RayNode("cn1", "10.0.0.2", True, 8, 2, 10 * GIBIBYTE), RayNode("cn2", "10.0.0.3", False, 4, 2, 10 * GIBIBYTE)]


def test_a_cluster_equal_to_the_job_matches() -> None:
    assert mismatch(RAY, JOB) == ""
    assert mismatch(RAY[::-1], JOB) == ""


@pytest.mark.parametrize(
    ("cn2", "expected"),
    [
        (replace(RAY[1], num_cpus=64), "cn2 has 64 CPUs in Ray and 4 in the job"),
        (replace(RAY[1], num_gpus=0), "cn2 has 0 GPUs in Ray and 2 in the job"),
        (replace(RAY[1], memory_bytes=5), f"cn2 has 5 bytes of memory in Ray and {10 * GIBIBYTE} in the job"),
        (replace(RAY[1], name="cn3"), "cn3 is in Ray and not in the job, cn2 is in the job and not in Ray"),
    ],
)
def test_a_difference_is_named_with_its_node(cn2: RayNode, expected: str) -> None:
    assert mismatch([RAY[0], cn2], JOB) == expected


def test_equal_totals_on_different_nodes_are_a_mismatch() -> None:
    swapped = [replace(RAY[0], num_cpus=4), replace(RAY[1], num_cpus=8)]
    assert mismatch(swapped, JOB).count("CPUs") == 2


def test_memory_that_slurm_does_not_limit_is_not_compared() -> None:
    assert mismatch(RAY, [replace(node, memory_bytes=None) for node in JOB]) == ""
