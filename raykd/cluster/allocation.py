"""The nodes and resources that Slurm allocated to this job, read once from SLURM_* and scontrol into frozen data."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from raykd.cluster.job_details import JobDetails
from raykd.cluster.slurm_commands import hostnames
from raykd.errors import ConfigError, plural

MEBIBYTE = 1024**2  # Slurm's "megabyte"
MIN_MEMORY_BYTES = 2048 * MEBIBYTE  # Ray's processes use about 1.2 GiB before any worker starts
CPUS = re.compile(r"(\d+)(?:\(x(\d+)\))?")  # '8', or '8(x2)' for two consecutive nodes
# srun reads these variables as requests, in addition to its options. In a job they are the requests of the job, or of
# another job in whose shell sbatch was called. With the CPU_BIND of another job, srun starts nothing and
# reports "CPU binding outside of job step allocation". The last ones would change the output of a step, or its input,
# which has the token.
STEP_REQUESTS = re.compile(
    r"S(LURM|RUN)_(GPUS(_PER_\w+)?|GPU_(BIND|FREQ)|(CPU|MEM)_BIND(_\w+)?|GRES(_FLAGS)?|CPUS_PER_(GPU|TASK)|MEM_PER_\w+|"
    r"NTASKS(_PER_\w+)?|NPROCS|TRES_(PER_TASK|BIND)|CONSTRAINT|CORE_SPEC|DISTRIBUTION|EXACT|EXCLUSIVE|HINT|SPREAD_JOB|"
    r"THREADS_PER_CORE|THREAD_SPEC|TIMELIMIT|LABELIO|STD(IN|OUT|ERR)MODE)"
)


@dataclass(frozen=True)
class Node:
    """The job's resources on one node. memory_bytes: None if the job has all memory of the node (--mem=0)."""

    name: str
    num_cpus: int
    num_gpus: int
    memory_bytes: int | None

    def __str__(self) -> str:
        return f"{self.name} ({plural(self.num_cpus, 'CPU')}, {plural(self.num_gpus, 'GPU')})"


@dataclass(frozen=True)
class Allocation:
    """A job's id, its nodes (the first is the one this runs on), its restarts and its submit directory."""

    job_id: int
    nodes: tuple[Node, ...]
    submit_dir: Path
    restart_count: int  # 0 in the first run, 1 after the first requeue
    slurm_id: str  # see `slurm_id_in`

    @property
    def head(self) -> Node:
        """The node that runs the batch script, Ray's head and the driver."""
        return self.nodes[0]

    @property
    def workers(self) -> tuple[Node, ...]:
        """The nodes that join the head."""
        return self.nodes[1:]


def without_step_requests(environ: Mapping[str, str]) -> dict[str, str]:
    """Return a copy of `environ` for srun: the steps here name all their resources in their options."""
    return {name: value for name, value in environ.items() if not STEP_REQUESTS.fullmatch(name)}


def read_allocation(
    environ: Mapping[str, str], expand: Callable[[str], list[str]] = hostnames, details: JobDetails | None = None
) -> Allocation:
    """Return the allocation of the job that `environ` describes. Raises ConfigError with the variable that is wrong.

    expand: turns a list of nodes into names. details: Slurm's record of the job. If it is None, GPUs, memory and
    restarts are read from `environ`.
    """
    if environ.get("SLURM_JOB_ID_HET_GROUP_0", "") == _text(environ, "SLURM_JOB_ID"):
        raise ConfigError(
            f"SLURM_HET_SIZE = {environ.get('SLURM_HET_SIZE')}: a heterogeneous job has several allocations, of which "
            "Ray could use only the first; submit without ':' between options"
        )
    num_nodes = _number(environ, "SLURM_JOB_NUM_NODES")
    nodelist = _text(environ, "SLURM_JOB_NODELIST")
    names = [nodelist] if num_nodes == 1 else expand(nodelist)
    cpus = _cpus(environ, num_nodes)
    if len(names) != num_nodes or len(cpus) != num_nodes:
        raise ConfigError(
            f"SLURM_JOB_NUM_NODES = {num_nodes}: SLURM_JOB_NODELIST={nodelist} has {len(names)} nodes and "
            f"SLURM_JOB_CPUS_PER_NODE has {len(cpus)}; all three must be those that Slurm set for this job"
        )
    restarts = None if details is None else details.restarts
    return Allocation(
        job_id=_number(environ, "SLURM_JOB_ID"),
        nodes=_nodes(environ, dict(zip(names, cpus, strict=True)), details),
        submit_dir=Path(_text(environ, "SLURM_SUBMIT_DIR")),
        restart_count=_number(environ, "SLURM_RESTART_COUNT", default=0) if restarts is None else restarts,
        slurm_id=slurm_id_in(environ),
    )


def slurm_id_in(environ: Mapping[str, str]) -> str:
    """Return the id that names this job alone in Slurm's commands: '4711', or '4711_2' in a job array.

    One task of an array has the id of the array, with which `scontrol requeue` would requeue all tasks.
    """
    job_id = _text(environ, "SLURM_JOB_ID")
    if environ.get("SLURM_ARRAY_JOB_ID") != job_id:  # no array, or variables of another job
        return job_id
    return f"{job_id}_{_number(environ, 'SLURM_ARRAY_TASK_ID')}"


def _nodes(environ: Mapping[str, str], cpus: Mapping[str, int], details: JobDetails | None) -> tuple[Node, ...]:
    """Return the job's nodes. cpus: the number of CPUs by node name."""
    if details is not None and set(details.allocations) == set(cpus):
        shares = {name: details.allocations[name] for name in cpus}
        memory = {name: share.memory_mib * MEBIBYTE for name, share in shares.items()}
        if all(memory.values()):
            for name, memory_bytes in memory.items():
                _require_memory(memory_bytes, f"the job has {memory_bytes // MEBIBYTE} MiB on {name}")
            return tuple(Node(name, cpus[name], share.gpus, memory[name]) for name, share in shares.items())
        gpus = {name: share.gpus for name, share in shares.items()}
    else:
        gpus = dict.fromkeys(cpus, _num_gpus(environ, len(cpus)))
    return tuple(Node(name, cpus[name], gpus[name], _memory_bytes(environ, cpus[name], gpus[name])) for name in cpus)


def _cpus(environ: Mapping[str, str], num_nodes: int) -> list[int]:
    """Return the number of CPUs of each node, from '8(x2),4'."""
    if num_nodes == 1:
        return [_number(environ, "SLURM_CPUS_ON_NODE")]
    text = _text(environ, "SLURM_JOB_CPUS_PER_NODE")
    matches = [CPUS.fullmatch(part) for part in text.split(",")]
    if None in matches:
        raise ConfigError(f"SLURM_JOB_CPUS_PER_NODE = '{text}': must be counts such as 8(x2),4, as Slurm sets it")
    return [int(match[1]) for match in matches if match for _ in range(int(match[2] or 1))]


def _num_gpus(environ: Mapping[str, str], num_nodes: int) -> int:
    """Return the number of GPUs per node.

    Slurm before 21.08 sets only the list of indices; a job without GPUs has neither variable. Slurm sets only this
    node's number: with a total (--gpus=3) the other nodes may have other numbers.
    """
    indices = [index for index in environ.get("SLURM_JOB_GPUS", "").split(",") if index]
    num_gpus = _number(environ, "SLURM_GPUS_ON_NODE", default=len(indices))
    total = environ.get("SLURM_GPUS", "").rpartition(":")[2]  # 'h100:4' if a type was requested
    if num_nodes > 1 and total.isdecimal() and int(total) != num_gpus * num_nodes:
        raise ConfigError(
            f"SLURM_GPUS = {environ['SLURM_GPUS']}: {num_nodes} nodes, {num_gpus} of the GPUs on this one, but every "
            "node must have the same number; submit with --gres=gpu:N instead of --gpus"
        )
    return num_gpus


def _memory_bytes(environ: Mapping[str, str], num_cpus: int, num_gpus: int) -> int | None:
    """Return the memory per node. --mem, --mem-per-cpu and --mem-per-gpu exclude each other; each has a variable."""
    counts = {"SLURM_MEM_PER_NODE": 1, "SLURM_MEM_PER_CPU": num_cpus, "SLURM_MEM_PER_GPU": num_gpus}
    for variable, count in counts.items():
        if variable not in environ:
            continue
        memory_bytes = _number(environ, variable) * count * MEBIBYTE
        _require_memory(memory_bytes, f"{variable} = {environ[variable]}: {memory_bytes // MEBIBYTE} MiB for the job")
        return memory_bytes
    return None


def _require_memory(memory_bytes: int, message: str) -> None:
    """Raise ConfigError, starting with `message`, if Ray cannot start in so little memory."""
    if memory_bytes < MIN_MEMORY_BYTES:
        minimum = MIN_MEMORY_BYTES // MEBIBYTE
        raise ConfigError(
            f"{message}, but Ray with one worker requires at least {minimum} MiB; submit with --mem=8G or more"
        )


def _text(environ: Mapping[str, str], variable: str) -> str:
    value = environ.get(variable, "")
    if not value:
        raise ConfigError(
            f"{variable} is not set: this runs only inside a Slurm job; "
            "submit it with: sbatch slurm/ray_cluster.slurm experiments/distill_cnn.py"
        )
    return value


def _number(environ: Mapping[str, str], variable: str, default: int | None = None) -> int:
    if default is not None and variable not in environ:
        return default
    value = _text(environ, variable)
    if not value.isdecimal():
        raise ConfigError(f"{variable} = '{value}': must be an integer, as Slurm sets it")
    return int(value)
