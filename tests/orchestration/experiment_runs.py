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
from small_runs import digits, taught_by

from raykd.cli.parser import run_reporting_errors
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
CLOCKED = ("images_per_s", "seconds")  # columns of a history that no two runs share


def environment(cpus: int) -> dict[str, str]:
    """This process's, with a Ray of `cpus` CPUs and no GPU, at the priority of the other processes here."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    resources = json.dumps({"CPU": cpus, "GPU": 0})
    return kept | {"RAYKD_RAY_OVERRIDE_RESOURCES": resources, "RAYKD_RAY_worker_niceness": "0"}


@dataclass(frozen=True)
class Ended:
    """How an experiment ended, and what it printed."""

    exit_code: int
    lines: list[str]
    errors: list[str]


def run_here(
    experiments: Sequence[Experiment], results: Path, stages: Sequence[Stage] = STAGES, log: io.StringIO | None = None
) -> Ended:
    """An experiment as the command line would run it, in this process and its Ray; `log` can be read meanwhile."""
    log, errors = log or io.StringIO(), io.StringIO()
    options = Options(results, NO_DATA, tuple(stages))
    with contextlib.redirect_stderr(errors):
        code = run_reporting_errors(lambda: run_experiments(experiments, options, Console(file=log, width=80)))
    return Ended(code, log.getvalue().splitlines(), errors.getvalue().splitlines())


class Command:
    """`python experiments/digits.py ...`, or another file's, in a process of its own."""

    def __init__(self, words: Sequence[str], environ: dict[str, str], output: Path, file: Path = DIGITS) -> None:
        self.stdout, self.stderr = output.with_suffix(".out"), output.with_suffix(".err")
        with self.stdout.open("w") as out, self.stderr.open("w") as err:
            line = [sys.executable, str(file), *words]
            self.process = subprocess.Popen(line, cwd=ROOT, env=environ, stdout=out, stderr=err)

    def wait_for(self, part: str) -> str:
        """The first line with `part` in it."""

        def found() -> str | None:
            assert self.process.poll() is None, f"ended early:\n{self.stdout.read_text()}{self.stderr.read_text()}"
            whole = self.stdout.read_text().rpartition("\n")[0]
            return next((line for line in whole.splitlines() if part in line), None)

        return wait_until(found, f"'{part}'")

    def end(self, timeout_s: float = TIMEOUT_S) -> Ended:
        """Wait for it."""
        code = self.process.wait(timeout_s)
        return Ended(code, self.stdout.read_text().splitlines(), self.stderr.read_text().splitlines())


@contextlib.contextmanager
def command(words: Sequence[str], environ: dict[str, str], output: Path, file: Path = DIGITS) -> Iterator[Command]:
    """One that does not outlive the block. Its Ray goes with it."""
    made = Command(words, environ, output, file)
    try:
        yield made
    finally:
        if made.process.poll() is None:
            made.process.kill()
            made.process.wait()


def wait_until(found: Callable[[], Any], what: str) -> Any:
    """What `found` gives once it gives something."""
    until = time.monotonic() + TIMEOUT_S
    while time.monotonic() < until:
        if result := found():
            return result
        time.sleep(0.02)
    raise AssertionError(f"{what} did not come within {TIMEOUT_S:g} s")


def train_directly(run: Run, results: Path, hooks: Hooks = Hooks(), caches: Path | None = None) -> RunFolder:  # noqa: B008 - frozen
    """The loop alone on one thread, after its teacher, as a worker of one CPU would; nothing of Ray.

    caches: of an experiment; the teacher, which has the same bits there, then teaches from its logit cache.
    """
    folder = RunFolder(results / run.family / run.name)
    trained = train_directly(run.teacher, results) if run.teacher else folder
    teacher = taught_by(run, trained, caches or results / "none")
    torch.set_num_threads(1)
    fit(run, digits(), folder, CPU, teacher, hooks)
    return folder


def curve(folder: RunFolder) -> list[dict[str, Any]]:
    """The history without what depends on the clock."""
    return [{name: value for name, value in row.items() if name not in CLOCKED} for row in folder.history()]


def assert_same_bits(found: RunFolder, wanted: RunFolder) -> None:
    """Best weights, their record and every epoch's figures."""
    assert found.best.read_bytes() == wanted.best.read_bytes(), f"{found.path.name}: other weights"
    assert curve(found) == curve(wanted)
    assert found.record()["best"] == wanted.record()["best"]
