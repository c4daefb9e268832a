"""One run of the small experiment by several workers without Slurm and Ray: the expected result of a job's run.

python run_by_several.py RANK SIZE FOLDER EVERY_S SETTING...
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import several_processes
import small_experiment
from small_runs import CPU, digits

from raykd.store.run_folder import RunFolder
from raykd.training.group import default_group
from raykd.training.hooks import CHECKPOINT_EVERY_S, Hooks
from raykd.training.loop import fit


def start_two(
    folder: Path, settings: Sequence[str], every_s: float = CHECKPOINT_EVERY_S
) -> list[subprocess.Popen[bytes]]:
    """Start two processes that train the teacher of the small experiment with `settings` in folder/run."""
    return several_processes.start(Path(__file__), folder, [str(every_s), *settings])


def train_by_two(folder: Path, settings: Sequence[str], every_s: float = CHECKPOINT_EVERY_S) -> RunFolder:
    """Train or resume the run in folder/run with two processes until it is done."""
    several_processes.end(start_two(folder, settings, every_s))
    return RunFolder(folder / "run")


def main(rank: int, size: int, folder: Path, every_s: float, settings: Sequence[str]) -> None:
    with several_processes.together(rank, size, folder):
        (run,) = small_experiment.runs(("teacher",), tuple(settings))
        hooks = Hooks(checkpoint_every_s=every_s)
        fit(run, digits(), RunFolder(folder / "run"), CPU, hooks=hooks, group=default_group())


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4]), sys.argv[5:])
