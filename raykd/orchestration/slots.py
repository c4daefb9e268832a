"""How many runs go side by side, and what each is given. Plain arithmetic, no Ray."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from raykd.errors import ConfigError, plural
from raykd.spec.experiment import Workers

# Runs side by side gain all of a core, threads of one run less: two runs of one thread each do 1.08 times as many steps
# as one run of two (ResNet-8 at 32x32), 1.8 times at 8x8. Beyond this many threads a step of these models only waits.
MAX_THREADS = 16


@dataclass(frozen=True)
class Slots:
    """`count` runs at a time, each by `workers` processes on `cpus` CPUs (as many threads) and `gpus` GPUs each.

    gpus may be a fraction. min_workers: with how many a run goes on when a node is lost.
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
    """Share out the cluster. `nodes` are the resources of each node, {'CPU': 8, 'GPU': 2}.

    num_jobs: that want a slot. max_concurrent: how many runs can train side by side. A worker has its GPU to itself,
    with an equal share of the node's CPUs. Without GPUs, runs that train side by side share the CPUs. `workers`
    overrides this.
    Raises ConfigError when not one run fits.
    """
    nodes = list(nodes)
    gpus = workers.gpus if workers.gpus is not None else float(any(node.get("GPU", 0) >= 1 for node in nodes))
    able = [node for node in nodes if node.get("GPU", 0) >= gpus and node.get("CPU", 0) >= 1]
    share = -(-max_concurrent * workers.count // max(1, len(able)))
    cpus = workers.cpus or max(1, min((_fair_cpus(node, gpus, share) for node in able), default=1))
    fits = room(nodes, cpus, gpus)
    fewest = workers.min_count or workers.count
    if fits < fewest:
        found = "; ".join(f"{plural(node.get('CPU', 0), 'CPU')}, {plural(node.get('GPU', 0), 'GPU')}" for node in nodes)
        wanted, whole = f"workers.cpus = {cpus}, workers.gpus = {gpus:g}", f"no node has that ({found})"
        if fits or fewest > 1:
            field = "min_count" if workers.min_count else "count"
            wanted, whole = f"workers.{field} = {fewest}, {wanted}", f"the nodes have room for {fits} ({found})"
        raise ConfigError(f"{wanted}: {whole}; ask for less, or --set workers.gpus=0 for CPUs alone")
    count = max(1, min(fits // workers.count, num_jobs))
    return Slots(count, cpus, gpus, workers.count, fewest)


def room(nodes: Iterable[Mapping[str, float]], cpus: int, gpus: float) -> int:
    """How many workers of so many CPUs and GPUs the nodes can have at once."""
    return sum(_fits(node, cpus, gpus) for node in nodes if node.get("GPU", 0) >= gpus)


def _fair_cpus(node: Mapping[str, float], gpus: float, share: int) -> int:
    """Of a worker with `gpus`, or of one of `share` on this node without."""
    cpus = int(node.get("CPU", 1))
    return int(cpus * gpus / node["GPU"]) if gpus else min(MAX_THREADS, max(1, cpus // share))


def _fits(node: Mapping[str, float], cpus: int, gpus: float) -> int:
    by_cpus = int(node.get("CPU", 0) // cpus)
    if not gpus:
        return by_cpus
    # A share is of one GPU: two of 0.4 fit on each, not five on two.
    by_gpus = node["GPU"] // gpus if gpus >= 1 else int(node["GPU"]) * int(1 / gpus + 1e-9)
    return min(by_cpus, int(by_gpus))
