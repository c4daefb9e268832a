"""How many runs go side by side, and what each is given. Plain arithmetic, no Ray."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from raykd.errors import ConfigError
from raykd.experiment import Workers
from raykd.orchestration.progress import plural

# Small convolutions gain little from more CPU threads than this; more runs side by side gain all of it.
CPUS_PER_RUN = 2


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


def plan_slots(nodes: Iterable[Mapping[str, float]], workers: Workers, num_runs: int) -> Slots:
    """Share out the cluster. `nodes` are the resources of each node, {'CPU': 8, 'GPU': 2}; num_runs can start.

    A worker has its GPU to itself, with an equal share of the node's CPUs, unless `workers` says otherwise.
    Raises ConfigError when not one run fits.
    """
    nodes = list(nodes)
    gpus = workers.gpus if workers.gpus is not None else float(any(node.get("GPU", 0) >= 1 for node in nodes))
    able = [node for node in nodes if node.get("GPU", 0) >= gpus and node.get("CPU", 0) >= 1]
    cpus = workers.cpus or max(1, min((_fair_cpus(node, gpus, workers.count) for node in able), default=1))
    fits = room(nodes, cpus, gpus)
    fewest = workers.min_count or workers.count
    if fits < fewest:
        found = "; ".join(f"{node.get('CPU', 0):g} CPUs, {node.get('GPU', 0):g} GPUs" for node in nodes)
        wanted, whole = f"workers.cpus = {cpus}, workers.gpus = {gpus:g}", f"no node has that ({found})"
        if fits or fewest > 1:
            field = "min_count" if workers.min_count else "count"
            wanted, whole = f"workers.{field} = {fewest}, {wanted}", f"the nodes have room for {fits} ({found})"
        raise ConfigError(f"{wanted}: {whole}; ask for less, or --set workers.gpus=0 for CPUs alone")
    count = max(1, min(fits // workers.count, num_runs))
    return Slots(count, cpus, gpus, workers.count, fewest)


def room(nodes: Iterable[Mapping[str, float]], cpus: int, gpus: float) -> int:
    """How many workers of so many CPUs and GPUs the nodes can have at once."""
    return sum(_fits(node, cpus, gpus) for node in nodes if node.get("GPU", 0) >= gpus)


def _fair_cpus(node: Mapping[str, float], gpus: float, count: int) -> int:
    """`count` workers of CPUs may have to share one node."""
    cpus = int(node.get("CPU", 1))
    return int(cpus * gpus / node["GPU"]) if gpus else min(CPUS_PER_RUN, max(1, cpus // count))


def _fits(node: Mapping[str, float], cpus: int, gpus: float) -> int:
    by_cpus = int(node.get("CPU", 0) // cpus)
    if not gpus:
        return by_cpus
    # A share is of one GPU: two of 0.4 fit on each, not five on two.
    by_gpus = node["GPU"] // gpus if gpus >= 1 else int(node["GPU"]) * int(1 / gpus + 1e-9)
    return min(by_cpus, int(by_gpus))
