"""Helpers of the tests of Slurm jobs: the script, the drivers, and the leftovers of a job."""

import os
import shutil
import sys
import time
from pathlib import Path

from testbed import POLL_S, Testbed

SCRIPT = "slurm/ray_cluster.slurm"
DRIVERS = Path(__file__).parent / "drivers"
ONE_CPU_EACH = ("--nodes=2", "--cpus-per-task=1", "--mem=6G")


def leftovers(slurm: Testbed) -> list[str]:
    """Return processes on any node and folders of this testbed's jobs. Wait a moment for the last processes to end."""
    deadline = time.monotonic() + 5
    while (processes := slurm.processes()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return processes + [
        str(path) for job_id in slurm.job_ids for path in Path("/tmp").glob(f"rk-{os.getuid()}-{job_id}*")
    ]


def start_now(slurm: Testbed, job_id: int) -> None:
    """Start a requeued job immediately; Slurm would hold it for two minutes."""
    while slurm.job(job_id)["JobState"] != "PENDING":
        time.sleep(POLL_S)
    slurm.run(["scontrol", "update", f"JobId={job_id}", "StartTime=now"])


def left_by_lost_node(bed: Testbed) -> list[str]:
    """Remove the folders of cn2, which would be removed when it returns, and return the `leftovers`."""
    for job_id in bed.job_ids:
        shutil.rmtree(Path(f"/tmp/rk-{os.getuid()}-{job_id}-1"), ignore_errors=True)  # another job may have removed it
    return leftovers(bed)


def environment_with_ray(folder: Path, program: str) -> dict[str, str]:
    """Make a virtual environment whose `ray` is the shell script `program`; $REAL is the real `ray`."""
    programs = folder / "bin"
    programs.mkdir()
    real = Path(sys.executable).with_name("ray")
    (programs / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (programs / "ray").write_text(f"#!/bin/bash\nREAL={real}\n{program}\n")
    for path in programs.iterdir():
        path.chmod(0o755)
    return {"RAYKD_VENV": str(folder)}
