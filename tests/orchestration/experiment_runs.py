"""Run experiments in this process or as a command, and train single runs without Ray for comparison."""

import contextlib
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from small_runs import curve, digits, trained_teacher_of

from raykd.cli.parser import run_reporting_errors
from raykd.orchestration import command as raykd_command
from raykd.orchestration.options import Options
from raykd.orchestration.run_experiments import run_experiments
from raykd.spec.experiment import Experiment
from raykd.spec.plan import Run
from raykd.spec.stages import STAGES, Stage
from raykd.store.run_folder import RunFolder
from raykd.training.hooks import Hooks
from raykd.training.loop import fit

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "experiments" / "digits.py"
NO_DATA = Path("no-data-here")
CPU = torch.device("cpu")
TIMEOUT_S = 150.0


def environment(cpus: int) -> dict[str, str]:
    """Return this process's environment, for a Ray cluster with `cpus` CPUs and no GPU at normal priority."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    resources = json.dumps({"CPU": cpus, "GPU": 0})
    return kept | {"RAYKD_RAY_OVERRIDE_RESOURCES": resources, "RAYKD_RAY_worker_niceness": "0"}


@dataclass(frozen=True)
class Ended:
    """The exit code and the output of a command that has ended."""

    exit_code: int
    lines: list[str]
    errors: list[str]


def run_here(
    experiments: Sequence[Experiment], results: Path, stages: Sequence[Stage] = STAGES, log: io.StringIO | None = None
) -> Ended:
    """Run experiments as the command line does, in this process and its Ray cluster. `log` can be read meanwhile."""
    log, errors = log or io.StringIO(), io.StringIO()
    inputs = raykd_command.Command(Options(results, NO_DATA, tuple(stages)), Console(file=log, width=80))
    with contextlib.redirect_stderr(errors):
        code = run_reporting_errors(lambda: run_experiments(experiments, inputs))
    return Ended(code, log.getvalue().splitlines(), errors.getvalue().splitlines())


class Command:
    """`python experiments/digits.py ...`, or another experiment file, as a child process that leads a process group."""

    def __init__(self, words: Sequence[str], environ: dict[str, str], output: Path, file: Path = DIGITS) -> None:
        self.stdout, self.stderr = output.with_suffix(".out"), output.with_suffix(".err")
        with self.stdout.open("w") as out, self.stderr.open("w") as err:
            line = [sys.executable, str(file), *words]
            self.process = subprocess.Popen(line, cwd=ROOT, env=environ, stdout=out, stderr=err, process_group=0)

    def wait_for(self, part: str) -> str:
        """Wait for a line of the output with `part` in it, and return it."""

        def first_line() -> str | None:
            assert self.process.poll() is None, f"ended early:\n{self.stdout.read_text()}{self.stderr.read_text()}"
            whole = self.stdout.read_text().rpartition("\n")[0]
            return next((line for line in whole.splitlines() if part in line), None)

        return wait_until(first_line, f"'{part}'")

    def end(self, timeout_s: float = TIMEOUT_S) -> Ended:
        """Wait for the command to end."""
        code = self.process.wait(timeout_s)
        return Ended(code, self.stdout.read_text().splitlines(), self.stderr.read_text().splitlines())


@contextlib.contextmanager
def command(words: Sequence[str], environ: dict[str, str], output: Path, file: Path = DIGITS) -> Iterator[Command]:
    """Start a command, and kill it at the end of the block if it still runs. Its Ray ends with it."""
    made = Command(words, environ, output, file)
    try:
        yield made
    finally:
        if made.process.poll() is None:
            made.process.kill()
            made.process.wait()


def wait_until(condition: Callable[[], Any], what: str) -> Any:
    """Return the first true value of `condition`. Raises AssertionError after TIMEOUT_S."""
    until = time.monotonic() + TIMEOUT_S
    while time.monotonic() < until:
        if result := condition():
            return result
        time.sleep(0.02)
    raise AssertionError(f"{what} did not come within {TIMEOUT_S:g} s")


def train_directly(
    run: Run,
    results: Path,
    hooks: Hooks = Hooks(),  # noqa: B008 - frozen
    caches: Path | None = None,
    threads: int = 1,
) -> RunFolder:
    """Train `run` and its teacher with the loop alone, without Ray, on as many threads as a worker has CPUs.

    caches: the logit caches of an experiment whose teacher has the same weights; None for a live teacher.
    """
    folder = RunFolder(results / run.family / run.name)
    trained = train_directly(run.teacher, results, threads=threads) if run.teacher else folder
    teacher = trained_teacher_of(run, trained, caches or results / "none")
    torch.set_num_threads(threads)
    fit(run, digits(), folder, CPU, teacher, hooks)
    return folder


def assert_same_bits(actual: RunFolder, expected: RunFolder) -> None:
    """Assert that best weights, their record and the metrics of every epoch are equal."""
    assert actual.best.read_bytes() == expected.best.read_bytes(), f"{actual.path.name}: other weights"
    assert curve(actual) == curve(expected)
    assert actual.require_record().best == expected.require_record().best
