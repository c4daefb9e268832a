"""What the tests of jobs share: the script, the drivers, and what a job has left behind."""

import os
import shutil
import sys
import time
from pathlib import Path

from testbed import Testbed

SCRIPT = "slurm/ray_cluster.slurm"
DRIVERS = Path(__file__).parent / "drivers"
ONE_CPU_EACH = ("--nodes=2", "--cpus-per-task=1", "--mem=6G")


def leftovers(slurm: Testbed) -> list[str]:
    """Processes on any node, and folders of this testbed's jobs; a cancelled job's last ones may take a moment."""
    deadline = time.monotonic() + 5
    while (processes := slurm.processes()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return processes + [
        str(path) for job_id in slurm.job_ids for path in Path("/tmp").glob(f"rk-{os.getuid()}-{job_id}*")
    ]


def start_now(slurm: Testbed, job_id: int) -> None:
    """A job that is on its way back into the queue, where Slurm would let it wait for two minutes."""
    while slurm.job(job_id)["JobState"] != "PENDING":
        time.sleep(0.1)
    slurm.run(["scontrol", "update", f"JobId={job_id}", "StartTime=now"])


def left_by_lost_node(bed: Testbed) -> list[str]:
    """`leftovers`, once the folders of cn2 are away, which go when it is back."""
    for job_id in bed.job_ids:
        shutil.rmtree(Path(f"/tmp/rk-{os.getuid()}-{job_id}-1"))
    return leftovers(bed)


def environment_with_ray(folder: Path, program: str) -> dict[str, str]:
    """A virtual environment for a job in which `ray` is `program`, a shell script; $REAL is the real one."""
    programs = folder / "bin"
    programs.mkdir()
    real = Path(sys.executable).with_name("ray")
    (programs / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (programs / "ray").write_text(f"#!/bin/bash\nREAL={real}\n{program}\n")
    for path in programs.iterdir():
        path.chmod(0o755)
    return {"RAYKD_VENV": str(folder)}
