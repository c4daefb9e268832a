"""Run the stages of `make test` one after another, and print how many seconds each of them took.

    python tests/run_stages.py             lint, types, and the tests without the mark `nightly`
    python tests/run_stages.py nightly     the tests with that mark

All stages run, also after one has failed. They do not run side by side: the stages with a real Ray and a real Slurm
start many processes, which use two cores alone.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

BIN = Path(sys.executable).parent
UNIT, RAY, SLURM = "not ray and not slurm", "ray and not slurm", "slurm"


def pytest(marks: str, *arguments: str) -> list[str]:
    """Return the command that runs the tests with these marks."""
    return [sys.executable, "-m", "pytest", "-q", "-m", f"{marks} and not soak", *arguments]


def stages(is_nightly: bool) -> dict[str, list[str]]:
    """Return the command of each stage by its name, the fastest stages first."""
    when = "nightly" if is_nightly else "not nightly"
    tests = {
        "unit": pytest(f"{UNIT} and {when}", "-n", "2", "--dist", "loadscope"),
        "ray": pytest(f"{RAY} and {when}", "tests/orchestration"),
        "slurm": pytest(f"{SLURM} and {when}", "tests/cluster"),
    }
    lint = {
        "lint": [f"{BIN}/ruff", "check", "."],
        "format": [f"{BIN}/ruff", "format", "--check", "."],
        "types": [f"{BIN}/pyright"],
    }
    return tests if is_nightly else {**lint, **tests}


def main(arguments: list[str]) -> int:
    """Run all stages; return 0, or 1 if one of them failed."""
    results = {}
    # Bytecode is kept, also where the user's environment forbids it: the tests start hundreds of Python processes.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    for name, command in stages(is_nightly=arguments == ["nightly"]).items():
        started = time.monotonic()
        code = subprocess.run(command, cwd=Path(__file__).parent.parent, env=environment, check=False).returncode
        results[name] = f"stage {name}: {time.monotonic() - started:.0f} s, {'passed' if code == 0 else 'FAILED'}"
        print(results[name], flush=True)
    print("\n".join(["", *results.values()]), flush=True)
    return int(any(result.endswith("FAILED") for result in results.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
