"""Run the stages of `make test` one after another, and print how many seconds each of them took.

    python tests/run_stages.py             lint, types, and the tests without the mark `nightly`
    python tests/run_stages.py nightly     the tests with that mark

All stages run, also after one has failed. They do not run side by side, since each uses two cores alone; but the tests
of the report, which wait for nothing, run in what those on Ray leave unused, and types are checked beside the jobs on
Slurm.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

BIN = Path(sys.executable).parent
UNIT, RAY, SLURM = "not ray and not slurm", "ray and not slurm", "slurm"
REPORT = "tests/report"


def pytest(marks: str, *arguments: str) -> list[str]:
    """Return the command that runs the tests with these marks."""
    return [sys.executable, "-m", "pytest", "-q", "-m", f"{marks} and not soak", *arguments]


def stages(is_nightly: bool) -> list[dict[str, list[str]]]:
    """Return the commands of the stages by their names: groups that run one after another, the fastest first."""
    when = "nightly" if is_nightly else "not nightly"
    # In the order of their names: xdist otherwise keeps the modules with one long test for the end of one process.
    in_order = ("--dist", "loadscope", "--no-loadscope-reorder")
    unit = pytest(f"{UNIT} and {when}", "-n", "2", *in_order)
    ray = {"ray": pytest(f"{RAY} and {when}", "tests/orchestration")}
    slurm = {"slurm": pytest(f"{SLURM} and {when}", "tests/cluster")}
    if is_nightly:
        return [{"unit": unit}, ray, slurm]
    report = {"report": ["nice", "-n", "19", *pytest(f"{UNIT} and {when}", REPORT)]}
    lint = {"lint": [f"{BIN}/ruff", "check", "."], "format": [f"{BIN}/ruff", "format", "--check", "."]}
    return [lint, {"unit": [*unit, "--ignore", REPORT]}, {**ray, **report}, {"types": [f"{BIN}/pyright"], **slurm}]


def run_group(commands: dict[str, list[str]]) -> dict[str, str]:
    """Run commands side by side. Return by their names what to print when all have ended."""
    # Bytecode is kept, also where the user's environment forbids it: the tests start hundreds of Python processes.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    started, root = time.monotonic(), Path(__file__).parent.parent
    processes = {name: subprocess.Popen(command, cwd=root, env=environment) for name, command in commands.items()}
    results = {}
    for name, process in processes.items():
        ending = "passed" if process.wait() == 0 else "FAILED"
        results[name] = f"stage {name}: {time.monotonic() - started:.0f} s, {ending}"
        print(results[name], flush=True)
    return results


def main(arguments: list[str]) -> int:
    """Run all stages; return 0, or 1 if one of them failed."""
    started, results = time.monotonic(), {}
    for group in stages(is_nightly=arguments == ["nightly"]):
        results |= run_group(group)
    print("\n".join(["", *results.values(), f"all stages: {time.monotonic() - started:.0f} s"]), flush=True)
    return int(any(result.endswith("FAILED") for result in results.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
