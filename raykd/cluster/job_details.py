"""The resources of a job on each node, from `scontrol show job --details`, and how they differ from the request.

A job's environment is not reliable. Slurm sets SLURM_GPUS, SLURM_MEM_PER_CPU and others only for the options that were
used, so a job that is submitted in another job's shell (salloc, then sbatch) has that job's values.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from raykd.cluster.slurm_commands import SlurmError, field_in, hostnames, slurm_output
from raykd.errors import plural

NODES = re.compile(r"\bNodes=(\S+) CPU_IDs=\S* Mem=(\d+) GRES=(\S*)")
# 'gpu:h100:2(IDX:0-1)', 'gres:gpu:2', 'gres/gpu:2'
GPUS = re.compile(r"(?:^|,|[:/])gpu(?::[^:,()]+)*?:(\d+)(?=[,(]|$)")

SHARES = re.compile(r"(?:^|,|[:/])((?:shard|mps)(?::[^:,()]+)*?:\d+)(?=[,(]|$)")  # parts of a GPU: 'shard:h100:1'


@dataclass(frozen=True)
class NodeAllocation:
    """A job's GPUs and memory on one node. memory_mib: 0 if Slurm does not manage memory. share: such as 'shard:1'."""

    gpus: int
    memory_mib: int
    share: str = ""


@dataclass(frozen=True)
class JobDetails:
    """The resources of a job, allocated and requested.

    allocations: by node name. gpus_per_node: each GPU count in TresPerNode, from --gres and --gpus-per-node and by GPU
    type; () if there is none. total_gpus: the requested total. restarts: how often the job was requeued. Both are None
    if Slurm does not print them.
    """

    allocations: Mapping[str, NodeAllocation]
    gpus_per_node: tuple[int, ...]
    total_gpus: int | None
    restarts: int | None


def read_details(slurm_id: str) -> JobDetails | None:
    """Return the details of a job, or None if scontrol fails or prints an unknown format."""
    if not re.fullmatch(r"\d+(_\d+)?", slurm_id):  # scontrol would show all jobs
        return None
    try:
        return parse_details(slurm_output(["scontrol", "show", "job", "--details", "--oneliner", slurm_id]))
    except SlurmError:
        return None


def parse_details(text: str, expand: Callable[[str], Sequence[str]] = hostnames) -> JobDetails | None:
    """Parse the output of `scontrol show job --details`. expand: turns a list such as 'cn[1-2]' into names."""
    allocations = {}
    for nodes, memory_mib, gres in NODES.findall(text):
        names = expand(nodes) if re.search(r"[\[,]", nodes) else [nodes]
        allocations |= dict.fromkeys(
            names, NodeAllocation(sum(gpu_counts(gres)), int(memory_mib), ",".join(SHARES.findall(gres)))
        )
    if not allocations:
        return None
    totals, restarts = gpu_counts(field_in(text, "TresPerJob")), field_in(text, "Restarts")
    return JobDetails(
        allocations=allocations,
        gpus_per_node=tuple(gpu_counts(field_in(text, "TresPerNode"))),
        total_gpus=sum(totals) if totals else None,
        restarts=int(restarts) if restarts.isdecimal() else None,
    )


def gpu_counts(gres: str) -> list[int]:
    """Return each count of GPUs in 'gpu:a100:1(IDX:0),gpu:h100:2(IDX:1-2)'."""
    return [int(count) for count in GPUS.findall(gres)]


def unused_gpu(details: JobDetails | None, environ: Mapping[str, str], node: str, num_gpus: int) -> str:
    """Return a sentence if runs on `node` would train on CPUs although the job may use a GPU there, otherwise ''.

    num_gpus: the job's whole GPUs there, the only ones that Ray counts.
    """
    share = details.allocations[node].share if details is not None and node in details.allocations else ""
    visible = environ.get("CUDA_VISIBLE_DEVICES", "")
    if num_gpus or not (share or visible not in ("", "-1", "NoDevFiles")):
        return ""
    reason = f"--gres={share} is part of a GPU" if share else f"CUDA_VISIBLE_DEVICES={visible}, but the job has no GPU"
    return f"{reason}: the runs train on CPUs; submit with --gres=gpu:1 (and --set workers.gpus=0.25 to share it)"


def differences(details: JobDetails, environ: Mapping[str, str], head: str, head_cpus: int) -> list[str]:
    """Return a sentence for each request that Slurm did not follow, and for variables that belong to another job.

    head: the node that this runs on, which `environ` describes. head_cpus: the job's CPUs there.
    """
    on_head = details.allocations[head]
    allocated = sum(node.gpus for node in details.allocations.values())
    sentences = [
        f"{plural(requested, 'GPU')} per node requested, {on_head.gpus} allocated: the script's --gres line overrides "
        f"--gpus-per-node; submit with {f'--gres=gpu:{requested}' if requested else '--gres=none'}"
        for requested in details.gpus_per_node
        # A whole node (--exclusive) has more GPUs than requested.
        if requested != on_head.gpus and on_head.gpus <= max(details.gpus_per_node)
    ]
    requested = details.total_gpus
    if requested is not None and (allocated < requested or (allocated and not requested)):
        remedy = "--gres=gpu:N, where N is the number per node" if requested else "--gres=none"
        sentences.append(
            f"{plural(requested, 'GPU')} requested by --gpus, {allocated} allocated: the script's --gres line "
            f"overrides it; submit with {remedy}"
        )
    return sentences + _variables_of_other_job(details, environ, on_head, allocated, head_cpus)


def _variables_of_other_job(
    details: JobDetails, environ: Mapping[str, str], on_head: NodeAllocation, allocated: int, cpus: int
) -> list[str]:
    """Return a sentence about the variables of another job, in whose shell sbatch was called; [] if there are none."""
    possible: dict[str, tuple[int | None, ...]] = {
        "SLURM_GPUS_ON_NODE": (on_head.gpus,),
        "SLURM_GPUS": (allocated, details.total_gpus),
        "SLURM_GPUS_PER_NODE": (on_head.gpus, *details.gpus_per_node),
    }
    if on_head.memory_mib:
        possible |= {
            "SLURM_MEM_PER_NODE": (on_head.memory_mib,),
            "SLURM_MEM_PER_CPU": (on_head.memory_mib // cpus,),
            "SLURM_MEM_PER_GPU": (on_head.memory_mib // on_head.gpus if on_head.gpus else None,),
        }
    wrong = [
        f"{name}={environ[name]}"
        for name, values in possible.items()
        if (number := environ.get(name, "").rpartition(":")[2]).isdecimal() and int(number) not in values
    ]
    if not wrong:
        return []
    memory = [f"{on_head.memory_mib} MiB"] if on_head.memory_mib else []
    resources = ", ".join([plural(cpus, "CPU"), *memory, plural(on_head.gpus, "GPU")])
    return [
        f"{', '.join(wrong)} in the environment: ignored, because this job has {resources} on this node; such "
        "variables remain when sbatch is called in the shell of another job (salloc)"
    ]
