"""Overheads of an experiment on this machine: seconds to the first training step, and per additional run.

    python tests/benchmarks/overheads.py [--rounds 3]

Each round runs the demo twice in new folders, with 5 seeds and with 15. The overhead of a run is the difference of
their durations times the slots, minus the training time of the 20 additional runs, divided by 20.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FEW, MANY = 5, 15
SLOTS = 2


@dataclass(frozen=True)
class Timing:
    """Seconds of one command: to the first step (its checkpoint exists), to the end, and of the training alone."""

    first_step: float
    whole: float
    training: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    first_steps, extras = [], []
    for _ in range(rounds):
        few, many = _demo(FEW), _demo(MANY)
        first_steps += [few.first_step, many.first_step]
        extra_runs = 2 * (MANY - FEW)
        extras.append(((many.whole - few.whole) * SLOTS - (many.training - few.training)) / extra_runs)
    for name, values in (("seconds to the first training step", first_steps), ("seconds per extra run", extras)):
        print(json.dumps({name: round(statistics.median(values), 2), "all": [round(value, 2) for value in values]}))


def _demo(seeds: int) -> Timing:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / "experiments/digits.py"), "--results", folder, "--set"]
        start_s = time.monotonic()
        process = subprocess.Popen(
            [*command, "seeds=" + ",".join(map(str, range(seeds)))], cwd=ROOT, stdout=subprocess.DEVNULL
        )
        first_step = None
        while process.poll() is None:
            if first_step is None and any(Path(folder).glob("*/*/checkpoint/last.safetensors")):
                first_step = time.monotonic() - start_s
            time.sleep(0.02)
        whole = time.monotonic() - start_s
        if process.returncode or first_step is None:
            raise SystemExit(f"{' '.join(command)} ended with exit code {process.returncode}")
        records = [json.loads(path.read_text()) for path in Path(folder).glob("*/*/run.json")]
        return Timing(first_step, whole, sum(record["seconds"] for record in records))


if __name__ == "__main__":
    main()
