"""The command line of an experiment: words that no shell sees."""

import sys
from collections.abc import Sequence
from pathlib import Path

from raykd.errors import ConfigError

USAGE = "sbatch slurm/ray_cluster.slurm experiments/distill_cnn.py [ARGS...]"


def experiment_command(words: Sequence[str], folder: Path) -> list[str]:
    """`python EXPERIMENT ARGS...`, to be run in `folder`. Raises: ConfigError when there is no such file."""
    if not (folder / words[0]).is_file():
        raise ConfigError(f"no experiment file '{words[0]}' in {folder}; submit with: {USAGE}")
    return [sys.executable, *words]
