"""What the tests of jobs share: the script, the drivers, and what a job has left behind."""

import os
import time
from pathlib import Path

from testbed import Testbed

SCRIPT = "slurm/ray_cluster.slurm"
DRIVERS = Path(__file__).parent / "drivers"


def leftovers(slurm: Testbed) -> list[str]:
    """Processes on any node, and folders of this testbed's jobs; a cancelled job's last ones may take a moment."""
    deadline = time.monotonic() + 5
    while (processes := slurm.processes()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return processes + [
        str(path) for job_id in slurm.job_ids for path in Path("/tmp").glob(f"rk-{os.getuid()}-{job_id}*")
    ]
