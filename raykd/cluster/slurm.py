"""What Slurm gave this job, read once from SLURM_* into frozen data.

One node for now: `Allocation.nodes` and everything that reads it take any number, but a job of several is
refused until the start of Ray on the others is written and proven.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from raykd.errors import ConfigError

MEBIBYTE = 1024**2  # Slurm's "megabyte"
MIN_MEMORY_BYTES = 2048 * MEBIBYTE  # Ray's own processes take about 1.2 GiB before any worker starts


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


def read_allocation(environ: Mapping[str, str]) -> Allocation:
    """The job that `environ` describes.

    Raises: ConfigError naming the variable that is missing, is not a number, or asks for what cannot be.
    """
    num_nodes = _number(environ, "SLURM_JOB_NUM_NODES")
    if num_nodes != 1:
        raise ConfigError(f"SLURM_JOB_NUM_NODES is {num_nodes}, raykd runs on one; submit with --nodes=1")
    num_cpus = _number(environ, "SLURM_CPUS_ON_NODE")
    num_gpus = _num_gpus(environ)
    name = _text(environ, "SLURM_JOB_NODELIST")
    return Allocation(
        job_id=_number(environ, "SLURM_JOB_ID"),
        nodes=(Node(name, num_cpus, num_gpus, _memory_bytes(environ, num_cpus, num_gpus)),),
        submit_dir=Path(_text(environ, "SLURM_SUBMIT_DIR")),
        restart_count=_number(environ, "SLURM_RESTART_COUNT", default=0),
    )


def _num_gpus(environ: Mapping[str, str]) -> int:
    """Slurm before 21.08 sets only the list of the GPUs' indices; a job without GPUs has neither."""
    indices = [index for index in environ.get("SLURM_JOB_GPUS", "").split(",") if index]
    return _number(environ, "SLURM_GPUS_ON_NODE", default=len(indices))


def _memory_bytes(environ: Mapping[str, str], num_cpus: int, num_gpus: int) -> int | None:
    """--mem, --mem-per-cpu and --mem-per-gpu each leave a variable of their own, in MiB, and only one."""
    shares = {"SLURM_MEM_PER_NODE": 1, "SLURM_MEM_PER_CPU": num_cpus, "SLURM_MEM_PER_GPU": num_gpus}
    for variable, count in shares.items():
        if variable not in environ:
            continue
        memory_bytes = _number(environ, variable) * count * MEBIBYTE
        if memory_bytes < MIN_MEMORY_BYTES:
            have, need = memory_bytes // MEBIBYTE, MIN_MEMORY_BYTES // MEBIBYTE
            raise ConfigError(
                f"{variable} is {environ[variable]}: {have} MiB for the job, and Ray with one worker "
                f"needs {need} at least; submit with --mem=8G or more"
            )
        return memory_bytes
    return None


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
