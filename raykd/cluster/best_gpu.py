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

from raykd.cluster.requeue import SCRIPT
from raykd.errors import ConfigError

DRY_RUN = "--dry-run"
SINFO_TIMEOUT_S = 60
COLUMNS = ("NodeHost", "StateLong", "Gres", "GresUsed")
USABLE = ("idle", "mixed", "completing")  # 'idle~' is asleep and wakes; '*' does not answer
GPUS = re.compile(r"gpu:(?:([\w.-]+):)?(\d+)")


@dataclass(frozen=True)
class GpuType:
    """A type in the partition: how many of its GPUs are free on nodes that take jobs, and how many there are."""

    name: str
    num_free: int
    num_all: int


def main(words: Sequence[str]) -> int:
    """Choose, say why in one line, and submit."""
    try:
        split = list(words).index("--")
        parser = argparse.ArgumentParser(prog="best_gpu")
        parser.add_argument("--partition", required=True)
        parser.add_argument("--rank", required=True)
        site, given = parser.parse_args(words[:split]), list(words[split + 1 :])
        options, experiment = _split(given)
        gres, why = choose(read_types(_sinfo(site.partition)), site.rank.split())
    except ConfigError as error:
        print(f"raykd: {error}", file=sys.stderr)
        return error.exit_code
    print(f"raykd: {why}", flush=True)
    passed_on = [word for word in options if word != DRY_RUN]
    command = ["sbatch", f"--partition={site.partition}", f"--gres={gres}", *passed_on, SCRIPT, *experiment]
    if DRY_RUN in options:
        print(shlex.join(command))
        return 0
    return subprocess.run(command, check=False).returncode


def _split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """(options, which begin with '-', and the experiment with its arguments).

    Raises: ConfigError when no experiment is named, or no such file.
    """
    count = next((number for number, word in enumerate(words) if not word.startswith("-")), len(words))
    if count == len(words):
        raise ConfigError("no experiment named: slurm/submit_best_gpu.sh [--dry-run] [--time=1:00:00] FILE [ARGS...]")
    if not Path(words[count]).is_file():
        raise ConfigError(f"no experiment file '{words[count]}'; sbatch's options are written --time=1:00:00, with '='")
    return list(words[:count]), list(words[count:])


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
    free: dict[str, int] = {}
    total: dict[str, int] = {}
    for line in table.splitlines():
        _, state, gres, used = (field.strip() for field in line.split("|")[: len(COLUMNS)])
        taken = _counts(used)
        for name, count in _counts(gres).items():
            total[name] = total.get(name, 0) + count
            usable = state.rstrip("~#!%$@^-+").lower() in USABLE
            free[name] = free.get(name, 0) + (max(0, count - taken.get(name, 0)) if usable else 0)
    return [GpuType(name, free[name], count) for name, count in total.items()]


def _counts(gres: str) -> dict[str, int]:
    """GPUs by type in 'gpu:h100:2(S:0-1),gpu:a100:1' or 'gpu:h100:1(IDX:0)'."""
    counts: dict[str, int] = {}
    for name, count in GPUS.findall(gres):
        counts[name] = counts.get(name, 0) + int(count)
    return counts


def choose(types: Iterable[GpuType], rank: Sequence[str]) -> tuple[str, str]:
    """(what to ask for, why): the best that is free, or any when none is.

    Raises: ConfigError when there are no GPUs.
    """
    places = {name.lower(): place for place, name in enumerate(rank)}
    known = sorted(types, key=lambda gpu: places.get(gpu.name.lower(), len(places)))
    if not known:
        raise ConfigError("the partition has no GPUs; name another in slurm/site.sh, or with SBATCH_PARTITION")
    overview = ", ".join(f"{gpu.name or 'of no type'} {gpu.num_free} of {gpu.num_all} free" for gpu in known)
    best = next((gpu for gpu in known if gpu.num_free), None)
    if best is None:
        return "gpu:1", f"no GPU is free ({overview}): any type, so that the first one is taken"
    gres = f"gpu:{best.name}:1" if best.name else "gpu:1"
    return gres, f"{best.name or 'a GPU'} is the best of what is free ({overview})"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
