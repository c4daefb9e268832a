"""A search by commands of their own, whose workers and drivers a test may kill."""

import os
from collections.abc import Callable
from pathlib import Path

from experiment_runs import ROOT, Ended, command, wait_until
from search_runs import FILE, TRIALS, folder_in, trials_in


class Disturbed:
    """Searches in one folder, by commands that join the tests' Ray; `lines` are those of all of them."""

    def __init__(self, address: str, folder: Path) -> None:
        paths = os.pathsep.join(str(path) for path in (ROOT / "tests", ROOT / "tests" / "orchestration"))
        self.environ = dict(os.environ) | {"RAY_ADDRESS": address, "PYTHONPATH": paths}
        self.results, self._logs = folder / "results", folder
        self.lines: list[str] = []
        self._count = 0

    def run(self, disturb: Callable[[int], None] = lambda pid: None) -> Ended:
        """A command, with `disturb` called on its process once it is there."""
        self._count += 1
        words = ["--results", str(self.results)]
        with command(words, self.environ, self._logs / f"command{self._count}", FILE) as started:
            disturb(started.process.pid)
            ended = started.end(timeout_s=400)
        self.lines += ended.lines
        return ended

    def wait_until_reported(self, number: int, epochs: int) -> None:
        """Wait until the study has intermediate values of `epochs` epochs of a trial, or the trial has ended."""

        def has() -> bool:
            trials = trials_in(self.results)
            return number < len(trials) and (
                trials[number].is_ended or max(trials[number].intermediate_values, default=0) >= epochs
            )

        wait_until(has, f"epoch {epochs} of trial {number}")

    def begun(self) -> None:
        """Wait until a trial is in training, or all trials have ended."""

        def is_so() -> bool:
            return self.undone() is not None or sum(trial.is_ended for trial in trials_in(self.results)) == TRIALS

        wait_until(is_so, "a trial")

    def worker_of(self, number: int) -> int:
        """The process that trains a trial."""
        return int(folder_in(self.results).run(number).require_record().writer.split()[1])

    def undone(self) -> int | None:
        """The trial that is being trained, where its worker has begun."""
        for trial in trials_in(self.results):
            if trial.state == "running" and folder_in(self.results).run(trial.number).record():
                return trial.number
        return None
