"""Divide the nodes of the cluster into slots, in which runs train side by side. Arithmetic without Ray.

A slot holds the workers of one run, with their CPUs and GPUs.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from raykd.errors import ConfigError, plural
from raykd.spec.experiment import Workers

# Two runs of one thread each do 1.08 times as many steps as one run of two threads (ResNet-8 at 32x32), and 1.8 times
# at 8x8, so CPUs are first divided among the runs. A step of these models gains nothing from more threads than this.
MAX_THREADS = 16

Node = Mapping[str, float]  # the resources of a node as Ray lists them, such as {"CPU": 8, "GPU": 2}


@dataclass(frozen=True)
class Slots:
    """`count` runs side by side, each trained by `workers` processes.

    cpus: CPUs of one worker, also its number of threads. gpus: GPUs of one worker, may be a fraction. min_workers: the
    smallest number of workers with which a run continues when a node is lost.
    """

    count: int
    cpus: int
    gpus: float
    workers: int = 1
    min_workers: int = 1

    @property
    def may_shrink(self) -> bool:
        """Whether a run continues with fewer workers when a node is lost."""
        return self.min_workers < self.workers

    @property
    def resources_of_worker(self) -> dict[str, float]:
        """The resources of one worker, as Ray requests them."""
        return {"CPU": self.cpus, **({"GPU": self.gpus} if self.gpus else {})}

    @property
    def resources_of_run(self) -> str:
        """The resources of one run, such as '2 workers of 8 CPUs and 1 GPU'."""
        resources = plural(self.cpus, "CPU") + (f" and {plural(self.gpus, 'GPU')}" if self.gpus else "")
        num_workers = f"{self.min_workers} to {self.workers}" if self.may_shrink else f"{self.workers}"
        return f"{num_workers} workers of {resources}" if self.workers > 1 else resources

    def __str__(self) -> str:
        """Return '4 runs side by side, each with 2 workers of 8 CPUs and 1 GPU'."""
        if self.count == 1:
            return f"1 run at a time with {self.resources_of_run}"
        return f"{self.count} runs side by side, each with {self.resources_of_run}"


def plan_slots(nodes: Iterable[Node], workers: Workers, num_jobs: int, max_concurrent: int) -> Slots:
    """Divide the nodes into slots.

    num_jobs: the number of jobs that need a slot. max_concurrent: how many runs can train side by side.

    By default a worker has one GPU to itself, with CPUs in proportion to the node's GPUs. Without GPUs, the runs that
    train side by side share the CPUs. `workers` overrides both.

    Raises ConfigError if the nodes have no room for one run.
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
        raise ConfigError(_describe_shortage(nodes, workers, cpus, gpus, num_fitting))
    count = max(1, min(num_fitting // workers.count, num_jobs))
    return Slots(count, cpus, gpus, workers.count, min_workers)


def require_room(workers: Workers, node: Node | None) -> None:
    """Raise ConfigError if `node`, the only one, has no room for one run. None stands for nodes that are not known."""
    if node is not None:
        plan_slots([node], workers, 1, 1)


def _describe_shortage(nodes: Sequence[Node], workers: Workers, cpus: int, gpus: float, num_fitting: int) -> str:
    """Return the error for nodes without room for the workers of one run: its fields, the reason and the remedy."""
    required: dict[str, float] = {"workers.cpus": cpus, "workers.gpus": gpus}
    min_workers = workers.min_count or workers.count
    if min_workers > 1:
        required = {f"workers.{'min_count' if workers.min_count else 'count'}": min_workers, **required}
    fields = ", ".join(f"{name} = {value:g}" for name, value in required.items())
    if not any(node.get("CPU", 0) >= 1 for node in nodes):
        return f"{fields}: no node has a CPU; start Ray on a node with CPUs"
    reason = f"the nodes have room for {num_fitting}" if min_workers > 1 else "no node has as many"
    sizes = "; ".join(f"{plural(node.get('CPU', 0), 'CPU')}, {plural(node.get('GPU', 0), 'GPU')}" for node in nodes)
    reducible = [name for name, value in required.items() if value > 1]
    remedies = [f"reduce {' or '.join(reducible)}"] if reducible else []
    remedies += ["train on CPUs with --set workers.gpus=0"] if gpus else []
    return f"{fields}: {reason} ({sizes}); {', or '.join(remedies)}"


def num_workers_that_fit(nodes: Iterable[Node], cpus: int, gpus: float) -> int:
    """Return how many workers with `cpus` CPUs and `gpus` GPUs each fit on the nodes side by side."""
    return sum(_num_workers_on(node, cpus, gpus) for node in nodes if node.get("GPU", 0) >= gpus)


def lost_nodes_reason(alive: Iterable[Node], slots: Slots, noun: str, min_workers: int) -> str:
    """Return why the command cannot continue on the nodes that are `alive`, or ''.

    noun: 'run' or 'trial'. min_workers: the smallest number of workers with which one of them continues.
    """
    num_fitting = num_workers_that_fit(alive, slots.cpus, slots.gpus)
    if num_fitting >= min_workers:
        return ""
    return (
        f"nodes are lost, and the others have room for {num_fitting} of {plural(min_workers, 'worker')} that a {noun} "
        "requires; rerun the same command on enough nodes to resume from the last checkpoints"
    )


def free_resources(slots: Slots, free: Node, total: Node) -> str:
    """Return how much of what runs in `slots` require is free in Ray, such as '3 of 16 CPUs and 0 of 2 GPUs'."""
    kinds = ("CPU", "GPU") if slots.gpus else ("CPU",)
    return " and ".join(f"{free.get(kind, 0):g} of {plural(total.get(kind, 0), kind)}" for kind in kinds)


def _num_workers_on(node: Node, cpus: int, gpus: float) -> int:
    by_cpus = int(node.get("CPU", 0) // cpus)
    if not gpus:
        return by_cpus
    # A fraction is a part of one GPU: two workers of 0.4 fit on each GPU, not five on two GPUs.
    by_gpus = node["GPU"] // gpus if gpus >= 1 else int(node["GPU"]) * int(1 / gpus + 1e-9)
    return min(by_cpus, int(by_gpus))
