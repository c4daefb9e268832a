"""Seconds from a Slurm job's first line to its first training step, on the tests' own Slurm (root, Debian's packages).

python tests/benchmarks/job_start.py [--rounds 5]
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests/cluster")]

import small_experiment  # noqa: E402
from testbed import Testbed  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as state, Testbed.start(Path(state), num_nodes=1) as slurm:
        seconds = [_first_step(slurm) for _ in range(rounds)]
    print(json.dumps({"seconds": round(statistics.median(seconds), 1), "all": [round(s, 1) for s in seconds]}))


def _first_step(slurm: Testbed) -> float:
    """Return the seconds until the checkpoint of the first step exists, and cancel the job then."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = [*small_experiment.words(Path(folder)), "--stage", "teacher"]
        options = ["--cpus-per-task=1", "--mem=6G", "slurm/ray_cluster.slurm"]
        job_id = slurm.sbatch([*options, *arguments], ROOT)
        slurm.wait_for_output(job_id, "starting Ray", timeout_s=30)
        start_s = time.monotonic()
        while not any(Path(folder).glob("*/*/checkpoint/last.safetensors")):
            time.sleep(0.05)
        seconds = time.monotonic() - start_s
        slurm.run(["scancel", str(job_id)])
        slurm.wait(job_id, timeout_s=30)
        return seconds


if __name__ == "__main__":
    main()
