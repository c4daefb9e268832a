"""The number of runs side by side and their resources: arithmetic on the nodes' resources."""

import pytest

from raykd.errors import ConfigError
from raykd.orchestration.parallel_runs import Slots, plan_slots
from raykd.spec.experiment import Workers

LAPTOP = {"CPU": 2.0, "memory": 8e9}
HEAD = {"CPU": 0.0}
CPU_NODE = {"CPU": 64.0}
H100 = {"CPU": 96.0, "GPU": 8.0, "accelerator_type:H100": 1.0}
SMALL_GPU = {"CPU": 8.0, "GPU": 1.0}


@pytest.mark.parametrize(
    ("nodes", "workers", "slots"),
    [
        ([LAPTOP], Workers(), Slots(2, 1, 0)),
        ([LAPTOP], Workers(cpus=1), Slots(2, 1, 0)),
        ([{"CPU": 1.0}], Workers(), Slots(1, 1, 0)),
        ([CPU_NODE], Workers(), Slots(64, 1, 0)),
        ([CPU_NODE, LAPTOP], Workers(cpus=2), Slots(33, 2, 0)),
        ([H100], Workers(), Slots(8, 12, 1)),
        ([H100], Workers(cpus=4), Slots(8, 4, 1)),
        ([H100], Workers(gpus=0.5), Slots(16, 6, 0.5)),
        ([H100], Workers(gpus=2), Slots(4, 24, 2)),
        ([H100], Workers(gpus=0, cpus=8), Slots(12, 8, 0)),
        ([H100, H100], Workers(), Slots(16, 12, 1)),
        ([H100, SMALL_GPU], Workers(), Slots(9, 8, 1)),
        ([{"CPU": 2.0, "GPU": 4.0}], Workers(), Slots(2, 1, 1)),
        ([LAPTOP], Workers(count=2), Slots(1, 1, 0, 2, 2)),
        ([SMALL_GPU, SMALL_GPU], Workers(count=2), Slots(1, 8, 1, 2, 2)),
        ([SMALL_GPU, SMALL_GPU, SMALL_GPU], Workers(count=2), Slots(1, 8, 1, 2, 2)),
        ([H100, H100], Workers(count=4), Slots(4, 12, 1, 4, 4)),
        ([SMALL_GPU, SMALL_GPU, SMALL_GPU], Workers(count=4, min_count=2), Slots(1, 8, 1, 4, 2)),
    ],
)
def test_cluster_is_divided_into_slots(nodes: list[dict[str, float]], workers: Workers, slots: Slots) -> None:
    assert plan_slots(nodes, workers, num_jobs=100, max_concurrent=100) == slots


def test_there_are_at_most_as_many_slots_as_runs_and_at_least_one() -> None:
    assert plan_slots([H100], Workers(), 3, 3).count == 3
    assert plan_slots([H100], Workers(), 0, 1).count == 1, "trained runs may be left to evaluate"


@pytest.mark.parametrize(
    ("nodes", "workers", "max_concurrent", "slots"),
    [
        ([CPU_NODE], Workers(), 4, Slots(4, 16, 0)),
        ([CPU_NODE], Workers(), 1, Slots(4, 16, 0)),
        ([CPU_NODE, CPU_NODE], Workers(), 16, Slots(16, 8, 0)),
        ([LAPTOP], Workers(), 1, Slots(1, 2, 0)),
        ([SMALL_GPU], Workers(count=2, gpus=0), 2, Slots(2, 2, 0, 2, 2)),
        ([SMALL_GPU], Workers(gpus=0), 3, Slots(4, 2, 0)),
    ],
)
def test_runs_side_by_side_share_the_cpus_up_to_the_useful_number_of_threads(
    nodes: list[dict[str, float]], workers: Workers, max_concurrent: int, slots: Slots
) -> None:
    assert plan_slots(nodes, workers, 100, max_concurrent) == slots
    assert slots.count * slots.workers * slots.cpus <= sum(node["CPU"] for node in nodes)


def test_fraction_of_a_gpu_is_of_one_gpu() -> None:
    assert plan_slots([{"CPU": 16.0, "GPU": 2.0}], Workers(gpus=0.4), 100, 100).count == 4, (
        "a fifth worker would need parts of two GPUs"
    )
    assert plan_slots([SMALL_GPU], Workers(gpus=0.1), 100, 100).count == 8, "10 fractions, but 8 CPUs"


def test_nodes_without_a_gpu_do_not_reduce_the_cpus_of_workers_with_one() -> None:
    assert plan_slots([LAPTOP, H100], Workers(), 100, 100) == Slots(8, 12, 1)


def test_node_without_cpus_reduces_nothing() -> None:
    assert plan_slots([HEAD, CPU_NODE], Workers(), 100, 32) == Slots(32, 2, 0)


def test_too_few_resources_for_the_workers_of_one_run_are_refused() -> None:
    message = r"workers\.count = 2, workers\.cpus = 8, workers\.gpus = 1: the nodes have room for 1 \(8 CPUs, 1 GPU\)"
    with pytest.raises(ConfigError, match=message):
        plan_slots([SMALL_GPU], Workers(count=2), 1, 1)


def test_too_few_resources_for_min_count_are_refused_by_that_field() -> None:
    message = r"workers\.min_count = 2, .*room for 1 .*; reduce workers\.min_count or workers\.cpus, or train on CPUs"
    with pytest.raises(ConfigError, match=message):
        plan_slots([SMALL_GPU], Workers(count=4, min_count=2), 1, 1)


@pytest.mark.parametrize(
    ("nodes", "workers"),
    [
        ([LAPTOP], Workers(cpus=3)),
        ([LAPTOP], Workers(gpus=1)),
        ([LAPTOP], Workers(gpus=0.5)),
        ([H100], Workers(gpus=9)),
        ([LAPTOP, LAPTOP], Workers(cpus=4)),
    ],
)
def test_worker_that_fits_on_no_node_is_refused_with_the_nodes_resources(
    nodes: list[dict[str, float]], workers: Workers
) -> None:
    with pytest.raises(
        ConfigError, match=r"workers\.cpus = \d+, workers\.gpus = [\d.]+: no node has as many \("
    ) as raised:
        plan_slots(nodes, workers, 1, 1)
    for node in nodes:
        assert f"{node['CPU']:g} CPUs, {node.get('GPU', 0):g} GPUs" in str(raised.value)


@pytest.mark.parametrize(
    ("workers", "remedy"),
    [
        (Workers(cpus=3), "reduce workers.cpus"),
        (Workers(gpus=1), "train on CPUs with --set workers.gpus=0"),
        (Workers(gpus=2, cpus=3), "reduce workers.cpus or workers.gpus, or train on CPUs with --set workers.gpus=0"),
        (Workers(count=3, gpus=0), "reduce workers.count"),
    ],
)
def test_remedy_names_only_fields_that_can_be_reduced(workers: Workers, remedy: str) -> None:
    with pytest.raises(ConfigError) as raised:
        plan_slots([LAPTOP], workers, 1, 1)
    assert str(raised.value).endswith(f"); {remedy}")


@pytest.mark.parametrize("nodes", [[], [HEAD]])
def test_nodes_without_cpus_are_refused_without_an_empty_list(nodes: list[dict[str, float]]) -> None:
    with pytest.raises(ConfigError) as raised:
        plan_slots(nodes, Workers(), 1, 1)
    assert str(raised.value) == ("workers.cpus = 1, workers.gpus = 0: no node has a CPU; start Ray on a node with CPUs")


def test_a_node_with_one_cpu_is_no_node_without_cpus() -> None:
    with pytest.raises(ConfigError, match=r"no node has as many \(1 CPU, 0 GPUs\)"):
        plan_slots([{"CPU": 1.0}], Workers(cpus=2), 1, 1)


@pytest.mark.parametrize(
    ("slots", "text"),
    [
        (Slots(4, 8, 1, 2, 2), "4 runs side by side, each with 2 workers of 8 CPUs and 1 GPU"),
        (Slots(4, 24, 2), "4 runs side by side, each with 24 CPUs and 2 GPUs"),
        (Slots(2, 1, 0), "2 runs side by side, each with 1 CPU"),
        (Slots(1, 1, 0.5), "1 run at a time with 1 CPU and 0.5 GPUs"),
        (Slots(1, 8, 1, 4, 2), "1 run at a time with 2 to 4 workers of 8 CPUs and 1 GPU"),
    ],
)
def test_slots_are_logged_with_their_workers_and_resources(slots: Slots, text: str) -> None:
    assert str(slots) == text
