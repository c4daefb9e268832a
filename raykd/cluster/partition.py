"""The partition that jobs go to, and its nodes, as Slurm's own commands show them."""

import os
import re
import subprocess
from pathlib import Path

from raykd.errors import ConfigError

CODE = Path(__file__).parents[2]
TIMEOUT_S = 30
OUTSIDE = "configuration source"  # in the error of Slurm's commands where no slurm.conf and no server is found


class NoCluster(ConfigError):
    """Slurm's commands are installed on a machine that is in no cluster."""


def default_partition() -> str:
    """SBATCH_PARTITION, else what slurm/site.sh exports; '' where neither names one."""
    if partition := os.environ.get("SBATCH_PARTITION"):
        return partition
    script = ["bash", "-c", "source slurm/site.sh >&2; echo; echo $SBATCH_PARTITION"]
    done = subprocess.run(script, cwd=CODE, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    return done.stdout.strip().rpartition("\n")[2]


def kinds_of_nodes(partition: str) -> list[str]:
    """'2 nodes with gpu:h100:2' for each kind of node; [] where there is no such partition.

    Raises: NoCluster, or ConfigError when Slurm does not answer.
    """
    command = ["sinfo", "--noheader", f"--partition={partition}", "--format=%D|%G"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"Slurm does not answer: {error}") from None
    reason = done.stderr.strip().rpartition("\n")[2]
    if done.returncode and OUTSIDE in reason:
        raise NoCluster(reason)
    if done.returncode:
        raise ConfigError(f"Slurm does not answer: {reason}")
    return [_kind(line) for line in done.stdout.splitlines() if line.strip()]


def _kind(line: str) -> str:
    """From sinfo's '2|gpu:h100:2(S:0-1)'."""
    count, _, gres = line.strip().partition("|")
    gpus = re.sub(r"\(.*?\)", "", gres)
    return f"{count} node{'' if count == '1' else 's'} {f'with {gpus}' if gpus else 'without GPUs'}"
