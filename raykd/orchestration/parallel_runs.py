"""Divide the cluster into slots, in which runs train side by side: plain arithmetic without Ray.

A slot is the workers of one run, with their CPUs and GPUs.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from raykd.errors import ConfigError, plural
from raykd.spec.experiment import Workers

# More runs side by side use all of a core, more threads per run use less: two runs of one thread each do 1.08 times as
# many steps as one run of two threads (ResNet-8 at 32x32), 1.8 times at 8x8. A step of these models gains nothing from
# more threads than this.
MAX_THREADS = 16


@dataclass(frozen=True)
class Slots:
    """`count` runs side by side, each by `workers` processes with `cpus` CPUs (threads) and `gpus` GPUs per process.

    gpus: may be a fraction. min_workers: how many a run continues with when a node is lost.
    """

    count: int
    cpus: int
    gpus: float
    workers: int = 1
    min_workers: int = 1

    @property
    def may_shrink(self) -> bool:
        return self.min_workers < self.workers

    def __str__(self) -> str:
        each = plural(self.cpus, "CPU") + (f" and {self.gpus:g} GPU" if self.gpus else "")
        count = f"{self.min_workers} to {self.workers}" if self.may_shrink else f"{self.workers}"
        workers = f"{count} workers of " if self.workers > 1 else ""
        return f"{self.count} at a time, {workers}{each} each"


def plan_slots(nodes: Iterable[Mapping[str, float]], workers: Workers, num_jobs: int, max_concurrent: int) -> Slots:
    """Divide the cluster into slots. `nodes` are the resources of each node, such as {'CPU': 8, 'GPU': 2}.

    num_jobs: jobs that need a slot. max_concurrent: how many runs can train side by side.

    By default a worker has one GPU to itself, with the node's CPUs in proportion. Without GPUs, the runs that train
    side by side share the CPUs. `workers` overrides this.

    Raises ConfigError when the cluster has no room for even one run.
    """
    nodes = list(nodes)
    gpus = workers.gpus if workers.gpus is not None else float(any(node.get("GPU", 0) >= 1 for node in nodes))
    usable = [node for node in nodes if node.get("GPU", 0) >= gpus and node.get("CPU", 0) >= 1]
    workers_per_node = -(-max_concurrent * workers.count // max(1, len(usable)))
    defaults = [
        int(int(node["CPU"]) * gpus / node["GPU"]) if gpus else min(MAX_THREADS, int(node["CPU"]) // workers_per_node)
        for node in usable
    ]
    cpus = workers.cpus or max(1, min(defaults, default=1))
    num_fitting = num_workers_that_fit(nodes, cpus, gpus)
    min_workers = workers.min_count or workers.count
    if num_fitting < min_workers:
        sizes = "; ".join(f"{plural(node.get('CPU', 0), 'CPU')}, {plural(node.get('GPU', 0), 'GPU')}" for node in nodes)
        fields, reason = f"workers.cpus = {cpus}, workers.gpus = {gpus:g}", f"no node has that ({sizes})"
        if num_fitting or min_workers > 1:
            field = "min_count" if workers.min_count else "count"
            fields = f"workers.{field} = {min_workers}, {fields}"
            reason = f"the nodes have room for {num_fitting} ({sizes})"
        raise ConfigError(f"{fields}: {reason}; ask for less, or --set workers.gpus=0 for CPUs alone")
    count = max(1, min(num_fitting // workers.count, num_jobs))
    return Slots(count, cpus, gpus, workers.count, min_workers)


def num_workers_that_fit(nodes: Iterable[Mapping[str, float]], cpus: int, gpus: float) -> int:
    """Return how many workers with `cpus` CPUs and `gpus` GPUs each fit on the nodes side by side."""
    return sum(_num_on(node, cpus, gpus) for node in nodes if node.get("GPU", 0) >= gpus)


def _num_on(node: Mapping[str, float], cpus: int, gpus: float) -> int:
    by_cpus = int(node.get("CPU", 0) // cpus)
    if not gpus:
        return by_cpus
    # A fraction is of one GPU: two workers of 0.4 fit on each GPU, not five on two GPUs.
    by_gpus = node["GPU"] // gpus if gpus >= 1 else int(node["GPU"]) * int(1 / gpus + 1e-9)
    return min(by_cpus, int(by_gpus))
