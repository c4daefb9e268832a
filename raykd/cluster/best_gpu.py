"""Submit an experiment to the best type of GPU that is free.

    python -m raykd.cluster.best_gpu --partition P --rank "h100 a100" -- [--dry-run] [SBATCH OPTIONS] EXPERIMENT [ARGS]

slurm/submit_best_gpu.sh passes the partition and the ranking of slurm/site.sh. Exit code: sbatch's, or 2 for invalid
arguments.
"""

import argparse
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from raykd.cluster.container import in_container, python
from raykd.cluster.sbatch_options import Option, script_defaults, split, translate, value_of
from raykd.cluster.slurm_commands import SCRIPT, SlurmError, slurm_output
from raykd.cluster.submissions import PACK
from raykd.disk.lookup import is_file
from raykd.errors import ConfigError
from raykd.spec.bundled import find_experiment

COLUMNS = ("NodeHost", "StateLong", "Gres", "GresUsed")
USABLE = ("idle", "mixed", "completing")  # 'idle~' is powered down and will wake up; with '*' the node does not respond
NO_CONSUME = "no_consume"  # a flag in Slurm's Gres=: jobs share these GPUs, so they are always free
MIG_SLICE = re.compile(r"\d+g\.\d+gb")  # part of a GPU: 'a100_1g.10gb'
UNTYPED_GPUS = re.compile(r"gpu(?::(\d+))?")


@dataclass(frozen=True)
class GpuType:
    """A type of GPU in the partition. free: free GPUs of each node, 0 if it is unusable. num_total: on all nodes."""

    name: str
    free: tuple[int, ...]
    num_total: int


def main(arguments: Sequence[str]) -> int:
    """Choose a type of GPU, print the reason in one line, and submit. Return the exit code."""
    try:
        separator = list(arguments).index("--")
        parser = argparse.ArgumentParser(prog="best_gpu")
        parser.add_argument("--partition", required=True)
        parser.add_argument("--rank", required=True)
        site = parser.parse_args(arguments[:separator])
        options, experiment = split(arguments[separator + 1 :])
        _require_file(experiment)
        is_dry = any(option.name == "dry-run" for option in options)
        options = [option for option in options if option.name != "dry-run"]
        partition = value_of(options, "partition") or site.partition
        request, reason = _request(options, partition, site.rank.split())
    except ConfigError as error:
        print(f"raykd: {error}", file=sys.stderr)
        return error.exit_code
    print(f"raykd: {reason}", flush=True)
    command = ["sbatch", f"--partition={partition}", *request, SCRIPT, *experiment]
    if is_dry:
        print(shlex.join(command))
        return 0
    check = in_container([python(), "-m", "raykd.cli.submission_check", *experiment])
    if experiment[0] != PACK and subprocess.run(check, check=False).returncode == ConfigError.exit_code:
        return ConfigError.exit_code  # a typing mistake, which the job would report after its time in the queue
    return subprocess.run(command, check=False).returncode


def _request(options: Sequence[Option], partition: str, rank: Sequence[str]) -> tuple[list[str], str]:
    """Return sbatch's options and the reason for the type of GPU. A type that the user requested is kept."""
    translated = translate([option for option in options if option.name != "partition"], script_defaults())
    gres = next((word.removeprefix("--gres=") for word in translated if word.startswith("--gres=")), "gpu:1")
    rest = [word for word in translated if not word.startswith("--gres=")]
    if not (untyped := UNTYPED_GPUS.fullmatch(gres)):
        return [f"--gres={gres}", *rest], f"--gres={gres}, as requested"
    nodes = (value_of(options, "nodes") or "1").partition("-")[0]
    num_nodes = int(nodes) if nodes.isdecimal() else 1
    chosen, reason = choose(read_types(_sinfo(partition)), rank, int(untyped[1] or 1), num_nodes)
    return [f"--gres={chosen}", *rest], reason


def _require_file(experiment: Sequence[str]) -> None:
    """Raise ConfigError unless `experiment` begins with an experiment file or the name of an experiment."""
    if not experiment:
        raise ConfigError(
            "no experiment file; usage: slurm/submit_best_gpu.sh [--dry-run] [--time=1:00:00] FILE [ARGS...]"
        )
    if not is_file(find_experiment(experiment[0])):
        raise ConfigError(
            f"experiment file '{experiment[0]}' does not exist; write sbatch's options with '=', as in --time=1:00:00"
        )


def _sinfo(partition: str) -> str:
    """Return a line for each node, with fields separated by '|'. Raises ConfigError if Slurm lists none."""
    columns = ",".join(f"{column}:|" for column in COLUMNS)
    command = ["sinfo", "--Node", "--noheader", f"--partition={partition}", f"--Format={columns}"]
    try:
        if (table := slurm_output(command)).strip():
            return table
        reason = "it has no nodes"
    except SlurmError as error:
        reason = str(error)
    raise ConfigError(
        f"partition '{partition}': cannot list its GPUs ({reason}); run this on a login node, with a partition that "
        "'sinfo -s' lists; slurm/site.sh sets the default"
    )


def read_types(table: str) -> list[GpuType]:
    """Parse the output of `_sinfo`. GPUs without a type have the type ''."""
    free: dict[str, list[int]] = {}
    total: dict[str, int] = {}
    for line in dict.fromkeys(table.splitlines()):  # a node in several partitions has a line for each
        _, state, gres, used = (field.strip() for field in line.split("|")[: len(COLUMNS)])
        taken = _counts(used)
        is_usable = state.rstrip("~#!%$@^-+").lower() in USABLE
        for name, count in _counts(gres).items():
            total[name] = total.get(name, 0) + count
            left = count if NO_CONSUME in gres else max(0, count - taken.get(name, 0))
            free.setdefault(name, []).append(left if is_usable else 0)
    return [GpuType(name, tuple(free[name]), count) for name, count in total.items()]


def _counts(gres: str) -> dict[str, int]:
    """Return the GPUs by type in 'gpu:h100:2(S:0-1),gpu:a100:no_consume:1' or 'gpu:h100:1(IDX:0)'."""
    counts: dict[str, int] = {}
    for entry in re.sub(r"\(.*?\)", "", gres).split(","):
        kind, *fields = entry.split(":")
        fields = [field for field in fields if field != NO_CONSUME]
        if kind == "gpu" and fields and fields[-1].isdecimal():
            name = ":".join(fields[:-1])
            counts[name] = counts.get(name, 0) + int(fields[-1])
    return counts


def rank_of(name: str, ranking: Sequence[str]) -> int:
    """Return the index of a type in `ranking`, or len(ranking) if it is not there.

    Slurm's AutoDetect uses the driver's name of the GPU: 'nvidia_h100_80gb_hbm3' is an 'h100', and 'quadro_rtx_8000' is
    an 'rtx8000'. A slice of a GPU (MIG) is another type.
    """
    lower = name.lower()
    parts = [] if MIG_SLICE.search(lower) else re.split(r"[^a-z0-9]+", lower)
    ends = range(1, len(parts) + 1)
    names = {lower} | {"".join(parts[begin:end]) for end in ends for begin in range(end)}
    return next((index for index, ranked in enumerate(ranking) if ranked.lower() in names), len(ranking))


def choose(types: Iterable[GpuType], ranking: Sequence[str], num_gpus: int = 1, num_nodes: int = 1) -> tuple[str, str]:
    """Return the value of --gres and the reason: the best type that is free, or any type if none is.

    num_gpus: per node. Raises ConfigError if the partition has no GPUs.
    """
    known = sorted(types, key=lambda gpu: rank_of(gpu.name, ranking))
    if not known:
        raise ConfigError("the partition has no GPUs; set another in slurm/site.sh, or with SBATCH_PARTITION")
    overview = ", ".join(f"{gpu.name or 'no type'} {sum(gpu.free)} of {gpu.num_total} free" for gpu in known)
    # The best type of which `num_nodes` nodes have `num_gpus` free GPUs each.
    best = next((gpu for gpu in known if sum(count >= num_gpus for count in gpu.free) >= num_nodes), None)
    if best is None:
        shortage = "no GPU is free" if num_gpus == num_nodes == 1 else f"{num_nodes} x {num_gpus} GPUs are not free"
        return f"gpu:{num_gpus}", f"{shortage} ({overview}): requesting any type, to get the first that is free"
    gres = f"gpu:{best.name}:{num_gpus}" if best.name else f"gpu:{num_gpus}"
    return gres, f"{best.name or 'a GPU'} is the best free type ({overview})"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
