"""What Slurm gave this job, read once from SLURM_* and scontrol into frozen data."""

import re
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from raykd.cluster.job_details import JobDetails
from raykd.errors import ConfigError

MEBIBYTE = 1024**2  # Slurm's "megabyte"
MIN_MEMORY_BYTES = 2048 * MEBIBYTE  # Ray's own processes take about 1.2 GiB before any worker starts
CPUS = re.compile(r"(\d+)(?:\(x(\d+)\))?")  # '8' or '8(x2)': on as many nodes, one after another
SCONTROL_TIMEOUT_S = 30
# srun reads these as requests, beside its own options. In a job they are what the job requested, or another job did.
STEP_REQUESTS = re.compile(
    r"S(LURM|RUN)_(GPUS(_PER_\w+)?|GPU_(BIND|FREQ)|GRES(_FLAGS)?|CPUS_PER_(GPU|TASK)|MEM_PER_\w+|NTASKS(_PER_\w+)?|NPROCS|"
    r"TRES_(PER_TASK|BIND)|CONSTRAINT|CORE_SPEC|DISTRIBUTION|EXACT|EXCLUSIVE|HINT|SPREAD_JOB|THREADS_PER_CORE|THREAD_SPEC)"
)


@dataclass(frozen=True)
class Node:
    """One node's share of the job. `memory_bytes` is None where Slurm gave the whole node (--mem=0)."""

    name: str
    num_cpus: int
    num_gpus: int
    memory_bytes: int | None

    def __str__(self) -> str:
        gpus = f"{self.num_gpus} GPU{'' if self.num_gpus == 1 else 's'}"
        return f"{self.name} ({self.num_cpus} CPU{'' if self.num_cpus == 1 else 's'}, {gpus})"


@dataclass(frozen=True)
class Allocation:
    """A job's id, nodes (the first is the one this runs on), restarts and where it was submitted from."""

    job_id: int
    nodes: tuple[Node, ...]
    submit_dir: Path
    restart_count: int  # 0 in the first run, 1 after the first requeue

    @property
    def head(self) -> Node:
        """The node that runs the batch script, Ray's head and the driver."""
        return self.nodes[0]

    @property
    def others(self) -> tuple[Node, ...]:
        """The nodes that join the head."""
        return self.nodes[1:]


def hostnames(nodelist: str) -> list[str]:
    """The names in a list such as 'cn[1-2,7]', by Slurm's own reading of it, the batch script's node first.

    Raises: ConfigError when scontrol fails.
    """
    command = ["scontrol", "show", "hostnames", nodelist]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SCONTROL_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"cannot read SLURM_JOB_NODELIST={nodelist}: {error}; is scontrol on PATH?") from None
    if done.returncode:
        raise ConfigError(f"cannot read SLURM_JOB_NODELIST={nodelist}: {done.stderr.strip()}")
    return done.stdout.split()


def without_step_requests(environ: Mapping[str, str]) -> dict[str, str]:
    """A copy of `environ` for srun, whose steps here name all that they need in their options."""
    return {name: value for name, value in environ.items() if not STEP_REQUESTS.fullmatch(name)}


def read_allocation(
    environ: Mapping[str, str],
    names_in: Callable[[str], list[str]] = hostnames,
    details: JobDetails | None = None,
) -> Allocation:
    """The job that `environ` describes; `names_in` reads a list of nodes.

    details: GPUs, memory and restarts as Slurm itself has them. They are read from `environ` where it is None.

    Raises: ConfigError naming the variable that is missing, is not a number, or asks for what cannot be.
    """
    num_nodes = _number(environ, "SLURM_JOB_NUM_NODES")
    nodelist = _text(environ, "SLURM_JOB_NODELIST")
    names = [nodelist] if num_nodes == 1 else names_in(nodelist)
    all_cpus = _cpus(environ, num_nodes)
    if len(names) != num_nodes or len(all_cpus) != num_nodes:
        raise ConfigError(
            f"SLURM_JOB_NUM_NODES is {num_nodes}, but SLURM_JOB_NODELIST={nodelist} names {len(names)} nodes "
            f"and SLURM_JOB_CPUS_PER_NODE counts CPUs of {len(all_cpus)}"
        )
    return Allocation(
        job_id=_number(environ, "SLURM_JOB_ID"),
        nodes=_nodes(environ, dict(zip(names, all_cpus, strict=True)), details),
        submit_dir=Path(_text(environ, "SLURM_SUBMIT_DIR")),
        restart_count=_number(environ, "SLURM_RESTART_COUNT", default=0)
        if details is None or details.restarts is None
        else details.restarts,
    )


def _nodes(environ: Mapping[str, str], cpus: Mapping[str, int], details: JobDetails | None) -> tuple[Node, ...]:
    """The job's nodes; `cpus` by name."""
    if details is not None and set(details.shares) == set(cpus):
        shares = {name: details.shares[name] for name in cpus}
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
    """Of each node, from '8(x2),4'."""
    if num_nodes == 1:
        return [_number(environ, "SLURM_CPUS_ON_NODE")]
    text = _text(environ, "SLURM_JOB_CPUS_PER_NODE")
    found = [CPUS.fullmatch(part) for part in text.split(",")]
    if None in found:
        raise ConfigError(f"SLURM_JOB_CPUS_PER_NODE is '{text}': expected counts such as 8(x2),4, as Slurm sets it")
    return [int(match[1]) for match in found if match for _ in range(int(match[2] or 1))]


def _num_gpus(environ: Mapping[str, str], num_nodes: int) -> int:
    """Of every node. Slurm before 21.08 sets only the list of indices; a job without GPUs has neither.

    Slurm tells this node's alone: with a total (--gpus=3) the others may have another number.
    """
    indices = [index for index in environ.get("SLURM_JOB_GPUS", "").split(",") if index]
    num_gpus = _number(environ, "SLURM_GPUS_ON_NODE", default=len(indices))
    total = environ.get("SLURM_GPUS", "").rpartition(":")[2]  # 'h100:4' where a type was asked for
    if num_nodes > 1 and total.isdecimal() and int(total) != num_gpus * num_nodes:
        raise ConfigError(
            f"SLURM_GPUS is {environ['SLURM_GPUS']} over {num_nodes} nodes, {num_gpus} of them here: "
            "raykd wants as many on each; submit with --gres=gpu:N instead of --gpus"
        )
    return num_gpus


def _memory_bytes(environ: Mapping[str, str], num_cpus: int, num_gpus: int) -> int | None:
    """--mem, --mem-per-cpu and --mem-per-gpu each leave a variable of their own, in MiB, and only one."""
    shares = {"SLURM_MEM_PER_NODE": 1, "SLURM_MEM_PER_CPU": num_cpus, "SLURM_MEM_PER_GPU": num_gpus}
    for variable, count in shares.items():
        if variable not in environ:
            continue
        memory_bytes = _number(environ, variable) * count * MEBIBYTE
        _require_memory(memory_bytes, f"{variable} is {environ[variable]}: {memory_bytes // MEBIBYTE} MiB for the job")
        return memory_bytes
    return None


def _require_memory(memory_bytes: int, found: str) -> None:
    """Raise ConfigError, which begins with `found`, when Ray cannot start in so little memory."""
    if memory_bytes < MIN_MEMORY_BYTES:
        need = MIN_MEMORY_BYTES // MEBIBYTE
        raise ConfigError(f"{found}, and Ray with one worker needs {need} MiB at least; submit with --mem=8G or more")


def _text(environ: Mapping[str, str], variable: str) -> str:
    value = environ.get(variable, "")
    if not value:
        raise ConfigError(
            f"{variable} is not set: this runs inside a Slurm job; "
            "submit it with: sbatch slurm/ray_cluster.slurm experiments/distill_cnn.py"
        )
    return value


def _number(environ: Mapping[str, str], variable: str, default: int | None = None) -> int:
    if default is not None and variable not in environ:
        return default
    value = _text(environ, variable)
    if not value.isdecimal():
        raise ConfigError(f"{variable} is '{value}': expected a whole number, as Slurm sets it")
    return int(value)
