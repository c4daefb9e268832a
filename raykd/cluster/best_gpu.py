"""Submits an experiment for the best type of GPU that is free.

    python -m raykd.cluster.best_gpu --partition P --rank "h100 a100" -- [--dry-run] [SBATCH OPTIONS] EXPERIMENT [ARGS]

slurm/submit_best_gpu.sh calls it with what slurm/site.sh says. Exit code: sbatch's own, 2 for a mistake.
"""

import argparse
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from raykd.cluster.sbatch_options import Option, script_defaults, split, translate, value_of
from raykd.cluster.slurm_commands import SCRIPT
from raykd.errors import ConfigError

SINFO_TIMEOUT_S = 60
COLUMNS = ("NodeHost", "StateLong", "Gres", "GresUsed")
USABLE = ("idle", "mixed", "completing")  # 'idle~' is asleep and wakes; '*' does not answer
NO_CONSUME = "no_consume"  # a flag in Slurm's Gres=: jobs share these GPUs, and none is ever taken
MIG_SLICE = re.compile(r"\d+g\.\d+gb")  # part of a GPU: 'a100_1g.10gb'
UNTYPED_GPUS = re.compile(r"gpu(?::(\d+))?")


@dataclass(frozen=True)
class GpuType:
    """A type in the partition. free: its free GPUs on each node that takes jobs. num_all: how many there are."""

    name: str
    free: tuple[int, ...]
    num_all: int

    @property
    def num_free(self) -> int:
        """On all nodes together."""
        return sum(self.free)

    def has_room(self, num_gpus: int, num_nodes: int) -> bool:
        """Whether so many nodes have so many free GPUs each."""
        return sum(count >= num_gpus for count in self.free) >= num_nodes


def main(words: Sequence[str]) -> int:
    """Choose, print the reason in one line, and submit."""
    try:
        at = list(words).index("--")
        parser = argparse.ArgumentParser(prog="best_gpu")
        parser.add_argument("--partition", required=True)
        parser.add_argument("--rank", required=True)
        site = parser.parse_args(words[:at])
        options, experiment = split(words[at + 1 :])
        _require_file(experiment)
        is_dry = any(option.name == "dry-run" for option in options)
        options = [option for option in options if option.name != "dry-run"]
        partition = value_of(options, "partition") or site.partition
        request, why = _request(options, partition, site.rank.split())
    except ConfigError as error:
        print(f"raykd: {error}", file=sys.stderr)
        return error.exit_code
    print(f"raykd: {why}", flush=True)
    command = ["sbatch", f"--partition={partition}", *request, SCRIPT, *experiment]
    if is_dry:
        print(shlex.join(command))
        return 0
    return subprocess.run(command, check=False).returncode


def _request(options: Sequence[Option], partition: str, rank: Sequence[str]) -> tuple[list[str], str]:
    """(sbatch's options, the reason for the type of GPU). A type that the user names is not replaced."""
    kept = [option for option in options if option.name != "partition"]
    words = translate(kept, script_defaults())
    gres = next((word.removeprefix("--gres=") for word in words if word.startswith("--gres=")), "gpu:1")
    rest = [word for word in words if not word.startswith("--gres=")]
    if not (untyped := UNTYPED_GPUS.fullmatch(gres)):
        return [f"--gres={gres}", *rest], f"--gres={gres}, as requested"
    nodes = (value_of(options, "nodes") or "1").partition("-")[0]
    num_nodes = int(nodes) if nodes.isdecimal() else 1
    chosen, why = choose(read_types(_sinfo(partition)), rank, int(untyped[1] or 1), num_nodes)
    return [f"--gres={chosen}", *rest], why


def _require_file(words: Sequence[str]) -> None:
    """Raise ConfigError when `words` do not begin with an experiment file."""
    if not words:
        raise ConfigError("no experiment named: slurm/submit_best_gpu.sh [--dry-run] [--time=1:00:00] FILE [ARGS...]")
    if not Path(words[0]).is_file():
        raise ConfigError(f"no experiment file '{words[0]}'; sbatch's options are written --time=1:00:00, with '='")


def _sinfo(partition: str) -> str:
    """A line a node, fields between '|'. Raises: ConfigError when Slurm does not know the partition."""
    columns = ",".join(f"{column}:|" for column in COLUMNS)
    command = ["sinfo", "--Node", "--noheader", f"--partition={partition}", f"--Format={columns}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SINFO_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"cannot ask Slurm for its GPUs: {error}; run this on a login node") from None
    if done.returncode or not done.stdout.strip():
        reason = done.stderr.strip() or "it has no nodes"
        raise ConfigError(f"partition '{partition}': {reason}; 'sinfo -s' lists yours, slurm/site.sh names it")
    return done.stdout


def read_types(table: str) -> list[GpuType]:
    """From sinfo's lines. A GPU without a type is of the type ''."""
    free: dict[str, list[int]] = {}
    total: dict[str, int] = {}
    for line in dict.fromkeys(table.splitlines()):  # a node of several partitions has a line for each
        _, state, gres, used = (field.strip() for field in line.split("|")[: len(COLUMNS)])
        taken = _counts(used)
        usable = state.rstrip("~#!%$@^-+").lower() in USABLE
        for name, count in _counts(gres).items():
            total[name] = total.get(name, 0) + count
            left = count if NO_CONSUME in gres else max(0, count - taken.get(name, 0))
            free.setdefault(name, []).append(left if usable else 0)
    return [GpuType(name, tuple(free[name]), count) for name, count in total.items()]


def _counts(gres: str) -> dict[str, int]:
    """GPUs by type in 'gpu:h100:2(S:0-1),gpu:a100:no_consume:1' or 'gpu:h100:1(IDX:0)'."""
    counts: dict[str, int] = {}
    for entry in re.sub(r"\(.*?\)", "", gres).split(","):
        kind, *fields = entry.split(":")
        fields = [field for field in fields if field != NO_CONSUME]
        if kind == "gpu" and fields and fields[-1].isdecimal():
            name = ":".join(fields[:-1])
            counts[name] = counts.get(name, 0) + int(fields[-1])
    return counts


def place_of(name: str, rank: Sequence[str]) -> int:
    """The place of a type in `rank`, from 0; len(rank) for one that it does not have.

    Slurm's AutoDetect names a type by the driver's name of the GPU: 'nvidia_h100_80gb_hbm3' is an 'h100', and
    'quadro_rtx_8000' an 'rtx8000'. A slice of a GPU (MIG) is not that GPU.
    """
    lower = name.lower()
    parts = [] if MIG_SLICE.search(lower) else re.split(r"[^a-z0-9]+", lower)
    ends = range(1, len(parts) + 1)
    names = {lower} | {"".join(parts[begin:end]) for end in ends for begin in range(end)}
    return next((place for place, ranked in enumerate(rank) if ranked.lower() in names), len(rank))


def choose(types: Iterable[GpuType], rank: Sequence[str], num_gpus: int = 1, num_nodes: int = 1) -> tuple[str, str]:
    """(the value of --gres, the reason): the best type that is free, or any type when none is.

    num_gpus: how many each of `num_nodes` nodes must have. Raises: ConfigError when there are no GPUs.
    """
    known = sorted(types, key=lambda gpu: place_of(gpu.name, rank))
    if not known:
        raise ConfigError("the partition has no GPUs; name another in slurm/site.sh, or with SBATCH_PARTITION")
    overview = ", ".join(f"{gpu.name or 'of no type'} {gpu.num_free} of {gpu.num_all} free" for gpu in known)
    best = next((gpu for gpu in known if gpu.has_room(num_gpus, num_nodes)), None)
    if best is None:
        few = "no GPU is free" if num_gpus == num_nodes == 1 else f"{num_nodes} x {num_gpus} GPUs are not free"
        return f"gpu:{num_gpus}", f"{few} ({overview}): any type, so that the first one is taken"
    gres = f"gpu:{best.name}:{num_gpus}" if best.name else f"gpu:{num_gpus}"
    return gres, f"{best.name or 'a GPU'} is the best of what is free ({overview})"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
