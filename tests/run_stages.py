"""Runs the stages of `make test` side by side, and prints what failed and how many seconds each stage took.

    python tests/run_stages.py             what `make test` runs
    python tests/run_stages.py nightly     the tests that are marked nightly

The stages with a real Ray and a real Slurm wait most of their time. So the unit tests run beside them, at a lower
priority. Each stage prints into a file of its own, which is shown once the stage has ended.
"""

import os
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

REPOSITORY = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
POLL_S = 0.2
LOW_PRIORITY = 10  # of `nice`
UNIT = "not ray and not slurm and not soak"


@dataclass(frozen=True)
class Stage:
    """Commands that run one after another, until one fails.

    niceness: 0 is the priority of an interactive command, 19 the lowest.
    """

    name: str
    commands: tuple[tuple[str, ...], ...]
    niceness: int = 0


def pytest(marks: str, *arguments: str) -> tuple[str, ...]:
    """Return the command that runs the tests with these marks."""
    return (sys.executable, "-m", "pytest", "-q", "-m", marks, *arguments)


def stages(nightly: bool) -> tuple[Stage, ...]:
    """Return the stages, the longest first."""
    when = "nightly" if nightly else "not nightly"
    lint = ((f"{BIN}/ruff", "check", "."), (f"{BIN}/ruff", "format", "--check", "."), (f"{BIN}/pyright",))
    tests = (
        Stage("slurm", (pytest(f"slurm and not soak and {when}", "tests/cluster"),)),
        Stage("ray", (pytest(f"ray and not slurm and not soak and {when}", "tests/orchestration"),)),
        Stage("unit", (pytest(f"{UNIT} and {when}", "-n", "2"),), LOW_PRIORITY),
    )
    return tests if nightly else (*tests, Stage("lint", lint, LOW_PRIORITY))


@dataclass
class Running:
    """A stage that has been started."""

    stage: Stage
    process: subprocess.Popen[bytes]
    output: IO[bytes]
    started: float

    @classmethod
    def start(cls, stage: Stage) -> "Running":
        """Start `stage`; its output goes into a file that vanishes with this process."""
        output = tempfile.TemporaryFile()  # noqa: SIM115 - `finish` closes it
        script = " && ".join(shlex.join(command) for command in stage.commands)
        words = ["nice", "-n", str(stage.niceness), "bash", "-c", script]
        process = subprocess.Popen(words, cwd=REPOSITORY, stdout=output, stderr=subprocess.STDOUT)
        return cls(stage, process, output, time.monotonic())

    def finish(self) -> int:
        """Print the stage's output and seconds, and return its exit code."""
        code, seconds = self.process.wait(), time.monotonic() - self.started
        self.output.seek(0)
        sys.stdout.flush()
        sys.stdout.buffer.write(self.output.read())
        self.output.close()
        print(f"=== stage {self.stage.name}: {seconds:.0f} s, exit code {code}", flush=True)
        return code


def main(words: list[str]) -> int:
    """Run all stages; return 0, or 1 if one of them failed."""
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    started = time.monotonic()
    running = [Running.start(stage) for stage in stages(nightly=words == ["nightly"])]
    codes = {}
    while running:
        for stage in [one for one in running if one.process.poll() is not None]:
            running.remove(stage)
            codes[stage.stage.name] = stage.finish()
        time.sleep(POLL_S)
    failed = [name for name, code in codes.items() if code]
    result = f"failed: {', '.join(failed)}" if failed else "all passed"
    print(f"=== {len(codes)} stages in {time.monotonic() - started:.0f} s: {result}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
