"""One run of the small lab by several workers, without Slurm and Ray: what a job's must come to.

python run_by_several.py RANK SIZE FOLDER SETTING...
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import small_lab
import torch
import torch.distributed as dist
from small_runs import CPU, digits

from raykd.run_folder import RunFolder
from raykd.training.group import all_workers
from raykd.training.hooks import CHECKPOINT_EVERY_S, Hooks
from raykd.training.loop import fit

TIMEOUT_S = 120


def start_two(folder: Path, settings: Sequence[str], every_s: float = CHECKPOINT_EVERY_S) -> list[subprocess.Popen]:
    """Two processes of one thread each at the teacher of the small lab with `settings`, in folder/run."""
    folder.mkdir(exist_ok=True)
    (folder / "meet").unlink(missing_ok=True)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "GLOO_SOCKET_IFNAME": "lo"}
    words = [str(folder), str(every_s), *settings]
    return [
        subprocess.Popen([sys.executable, __file__, str(rank), "2", *words], env=environment, stderr=subprocess.DEVNULL)
        for rank in (0, 1)
    ]


def train_by_two(folder: Path, settings: Sequence[str]) -> RunFolder:
    """To its end, undisturbed."""
    assert [worker.wait(TIMEOUT_S) for worker in start_two(folder, settings)] == [0, 0]
    return RunFolder(folder / "run")


def main(rank: int, size: int, folder: Path, every_s: float, settings: Sequence[str]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meet'}", rank=rank, world_size=size)
    (run,) = small_lab.runs(("teacher",), tuple(settings))
    hooks = Hooks(checkpoint_every_s=every_s)
    fit(run, digits(), RunFolder(folder / "run"), CPU, hooks=hooks, group=all_workers())
    dist.barrier()
    os._exit(0)  # torch 2.15 aborts in one exit of ten, in gloo's threads; Ray's workers do not end that way


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4]), sys.argv[5:])
