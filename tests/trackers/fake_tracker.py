"""A tracker in memory, and runs on the digits to copy into it, trained in seconds without Ray."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from small_runs import CPU, NO_WEIGHTS, digits, experiment

from raykd.errors import Interrupted
from raykd.spec.plan import Run, make_plan
from raykd.store.run_folder import RunFolder
from raykd.store.run_store import RunStore
from raykd.trackers.copier import Parent
from raykd.trackers.tracker import Epoch, State, TrackedRun, Tracker
from raykd.training.compute import choose_compute
from raykd.training.final_evaluation import evaluate_on_test
from raykd.training.hooks import Hooks
from raykd.training.train_one import train_one

TEACHER, BASELINE, DISTILLED = make_plan(experiment(), digits(), NO_WEIGHTS).runs
STEPS = 4  # of each of the three epochs


@dataclass
class Shown:
    """A run as the fake tracker has it."""

    run: TrackedRun
    parent: str | None
    epochs: list[Epoch] = field(default_factory=list)
    results: dict[str, float] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    states: list[State] = field(default_factory=list)


class FakeTracker(Tracker):
    """Keeps everything. Methods named in `broken` raise."""

    name = "mlflow"  # a name that an experiment may have

    def __init__(self) -> None:
        self.store, self.where = "here", "nowhere"
        self.runs: dict[str, Shown] = {}
        self.broken: set[str] = set()
        self.is_closed = self.is_aborted = False
        self._numbers = count()

    def _require_working(self, method: str) -> None:
        if method in self.broken:
            raise ConnectionError(f"{method} does not work")

    def open(self, run: TrackedRun, run_id: str | None, parent_id: str | None) -> str:
        self._require_working("open")
        if run_id is None or run_id not in self.runs:
            run_id = f"id{next(self._numbers)}"
            self.runs[run_id] = Shown(run, parent_id)
        return run_id

    def log_epochs(self, run_id: str, epochs: Sequence[Epoch]) -> None:
        self._require_working("log_epochs")
        self.runs[run_id].epochs += epochs

    def log_results(self, run_id: str, results: Mapping[str, float]) -> None:
        self._require_working("log_results")
        self.runs[run_id].results |= results

    def attach(self, run_id: str, files: Sequence[Path]) -> None:
        self._require_working("attach")
        self.runs[run_id].files += [file.name for file in files]

    def end(self, run_id: str, state: State) -> None:
        self._require_working("end")
        self.runs[run_id].states.append(state)

    def close(self) -> None:
        self.is_closed = True
        self._require_working("close")

    def abort(self) -> None:
        self.is_aborted = True

    def shown(self, name: str) -> Shown:
        """Return the only run with this name."""
        (found,) = [shown for shown in self.runs.values() if shown.run.name == name]
        return found


def family_in(results: Path) -> Parent:
    return Parent(results / "small", "small")


def folder_of(run: Run, results: Path) -> RunFolder:
    return RunStore(results).folder(run)


def train(run: Run, results: Path, stop_at: int | None = None, evaluated: bool = True) -> None:
    """Start or resume `run`. stop_at: the step at which it is interrupted, and its checkpoint written."""
    steps = iter(range(1, 1000))
    hooks = Hooks(should_stop=lambda: next(steps) == stop_at)
    with suppress(Interrupted):
        train_one(run, folder_of(run, results), digits(), CPU, RunStore(results), None, hooks)
        if evaluated:
            evaluate_on_test(run, folder_of(run, results), digits(), choose_compute(CPU, "fp32"))
