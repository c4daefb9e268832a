"""What Slurm gave a job, node by node, from `scontrol show job --details`; and where that is not what was requested.

A job's environment cannot be trusted for this. Slurm sets SLURM_GPUS, SLURM_MEM_PER_CPU and others only for the options
that were used, so a job that was submitted in another job's shell (salloc, then sbatch) has that job's values.
"""

import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

TIMEOUT_S = 30
NODES = re.compile(r"\bNodes=(\S+) CPU_IDs=\S* Mem=(\d+) GRES=(\S*)")
GPUS = re.compile(
    r"(?:^|,|[:/])gpu(?::[^:,()]+)*?:(\d+)(?=[,(]|$)"
)  # 'gpu:h100:2(IDX:0-1)', 'gres:gpu:2', 'gres/gpu:2'


@dataclass(frozen=True)
class Share:
    """A job's GPUs and memory on one node. `memory_mib` is 0 where Slurm does not manage memory."""

    gpus: int
    memory_mib: int


@dataclass(frozen=True)
class JobDetails:
    """shares: by node name. gpus_per_node: every count that was requested. gpus_in_all: the total, where requested."""

    shares: Mapping[str, Share]
    gpus_per_node: tuple[int, ...]
    gpus_in_all: int | None
    restarts: int | None


def read_details(job_id: str, names_in: Callable[[str], Sequence[str]]) -> JobDetails | None:
    """The details of a job; None where scontrol fails, or prints what is not understood.

    names_in: the node names in a list such as 'cn[1-2]'.
    """
    if not job_id.isdecimal():  # scontrol would show all jobs
        return None
    command = ["scontrol", "show", "job", "--details", "--oneliner", job_id]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return parse_details(done.stdout, names_in) if done.returncode == 0 else None


def parse_details(text: str, names_in: Callable[[str], Sequence[str]]) -> JobDetails | None:
    """Parse the output of `scontrol show job --details`; see `read_details`."""
    shares = {}
    for nodes, memory_mib, gres in NODES.findall(text):
        names = names_in(nodes) if re.search(r"[\[,]", nodes) else [nodes]
        shares |= dict.fromkeys(names, Share(sum(gpu_counts(gres)), int(memory_mib)))
    if not shares:
        return None
    totals = gpu_counts(_field(text, "TresPerJob"))
    restarts = _field(text, "Restarts")
    return JobDetails(
        shares=shares,
        gpus_per_node=tuple(gpu_counts(_field(text, "TresPerNode"))),
        gpus_in_all=sum(totals) if totals else None,
        restarts=int(restarts) if restarts.isdecimal() else None,
    )


def gpu_counts(gres: str) -> list[int]:
    """Each count of GPUs in 'gpu:a100:1(IDX:0),gpu:h100:2(IDX:1-2)'."""
    return [int(count) for count in GPUS.findall(gres)]


def _field(text: str, name: str) -> str:
    found = re.search(rf"\b{name}=(\S+)", text)
    return found[1] if found else ""


def differences(details: JobDetails, environ: Mapping[str, str], head: str, head_cpus: int) -> list[str]:
    """Sentences about requests that Slurm did not follow, and variables of the environment that are another job's.

    head: the node that this runs on, and whose share the environment describes. head_cpus: the job's CPUs there.
    """
    share = details.shares[head]
    total = sum(found.gpus for found in details.shares.values())
    found = [
        f"{_count(requested, 'GPU')} per node requested, {share.gpus} allocated: the script's --gres line wins over "
        f"--gpus-per-node; submit with {f'--gres=gpu:{requested}' if requested else '--gres=none'}"
        for requested in details.gpus_per_node
        # A whole node (--exclusive) has more than was requested.
        if requested != share.gpus and share.gpus <= max(details.gpus_per_node)
    ]
    in_all = details.gpus_in_all
    if in_all is not None and (total < in_all or (total and not in_all)):
        remedy = "--gres=gpu:N, the number for each node" if in_all else "--gres=none"
        found.append(
            f"{_count(in_all, 'GPU')} requested by --gpus, {total} allocated: the script's --gres line wins; "
            f"submit with {remedy}"
        )
    return found + _leftovers(details, environ, share, total, head_cpus)


def _leftovers(details: JobDetails, environ: Mapping[str, str], share: Share, total_gpus: int, cpus: int) -> list[str]:
    """A sentence about the variables that do not describe this job: sbatch was called in the shell of another one."""
    possible: dict[str, tuple[int | None, ...]] = {
        "SLURM_GPUS_ON_NODE": (share.gpus,),
        "SLURM_GPUS": (total_gpus, details.gpus_in_all),
        "SLURM_GPUS_PER_NODE": (share.gpus, *details.gpus_per_node),
    }
    if share.memory_mib:
        possible |= {
            "SLURM_MEM_PER_NODE": (share.memory_mib,),
            "SLURM_MEM_PER_CPU": (share.memory_mib // cpus,),
            "SLURM_MEM_PER_GPU": (share.memory_mib // share.gpus if share.gpus else None,),
        }
    wrong = [
        f"{name}={environ[name]}"
        for name, values in possible.items()
        if (number := environ.get(name, "").rpartition(":")[2]).isdecimal() and int(number) not in values
    ]
    if not wrong:
        return []
    memory = [f"{share.memory_mib} MiB"] if share.memory_mib else []
    has = ", ".join([_count(cpus, "CPU"), *memory, _count(share.gpus, "GPU")])
    return [
        f"{', '.join(wrong)} in the environment: ignored, since this job has {has} on this node; such variables are "
        "left over where sbatch is called in the shell of another job (salloc)"
    ]


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
