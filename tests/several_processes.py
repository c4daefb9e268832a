"""Several workers without Slurm and Ray: processes of one program, which form a gloo process group through a folder.

python PROGRAM RANK SIZE FOLDER ARGUMENT...        PROGRAM trains within `together(RANK, SIZE, FOLDER)`
"""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist

TIMEOUT_S = 150


def start(program: Path, folder: Path, arguments: Sequence[str] = (), size: int = 2) -> list[subprocess.Popen[bytes]]:
    """Start `size` processes with one thread each. `folder` may be that of an earlier process group."""
    folder.mkdir(exist_ok=True)
    (folder / "meet").unlink(missing_ok=True)
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    return [
        subprocess.Popen(
            [sys.executable, str(program), str(rank), str(size), str(folder), *arguments],
            env=environment,
            stderr=subprocess.PIPE,
        )
        for rank in range(size)
    ]


def end(workers: Sequence[subprocess.Popen[bytes]]) -> None:
    """Wait until all workers have ended, and require that none failed. Kill the remaining ones in any case."""
    try:
        for worker in workers:
            _, errors = worker.communicate(timeout=TIMEOUT_S)
            assert (worker.returncode, errors.decode()) == (0, "")
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


@contextmanager
def together(rank: int, size: int, folder: Path) -> Iterator[None]:
    """Run the block as one worker of the process group, and end the process after it."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meet'}", rank=rank, world_size=size)
    yield
    dist.barrier()
    os._exit(0)  # torch 2.15 aborts in one exit of ten, in gloo's threads; Ray's workers end in another way
