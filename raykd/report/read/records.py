"""What the report knows of a run: its record, its epochs, its scores on validation and test, its costs.

Read once by `collect`, never changed. top1 is in percent, epochs count from 0, times are seconds.

The measures that the report knows by name: what each is called, its unit, which end is the better one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from raykd.errors import flattened
from raykd.outputs import HISTORY_COLUMNS
from raykd.spec.stages import Stage
from raykd.store.records import Costs, Metrics, RunRecord

State = Literal["not started", "running", "interrupted", "failed", "not evaluated", "evaluated"]

ENDED: tuple[State, ...] = ("evaluated", "not evaluated")  # trained to the last epoch


@dataclass(frozen=True)
class History:
    """A run's epochs, one value an epoch in each column; NaN where nothing was written."""

    epochs: tuple[int, ...]
    columns: Mapping[str, tuple[float, ...]]

    @property
    def loss_terms(self) -> tuple[str, ...]:
        """The loss terms' names in the order of the file."""
        return tuple(name for name in self.columns if name not in HISTORY_COLUMNS)


@dataclass(frozen=True)
class Usage:
    """usage/*.json: what all workers took, over all resumes. gpu_seconds: of whole GPUs; 0 on CPUs.

    joules: None where any part of them is not known, for reasons in `no_joules_because`.
    """

    gpu_seconds: float
    joules: float | None
    no_joules_because: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunResult:
    """One run of the plan; `record` is None when it has not started. cautions: of its damaged or exchanged files.

    is_running: whether a process is training it now.
    """

    name: str
    stage: Stage
    record: RunRecord | None = None
    history: History | None = None
    score: Metrics | None = None
    val: Metrics | None = None
    costs: Costs | None = None
    usage: Usage | None = None
    cautions: tuple[str, ...] = ()
    is_running: bool = False

    @property
    def is_imported(self) -> bool:
        """Whether its weights were trained elsewhere."""
        return self.record is not None and self.record.config.get("imported") is not None

    @property
    def state(self) -> State:
        """How far the run is. A score counts only for a run that is done."""
        if self.record is None:
            return "not started"
        if self.record.status == "running":
            return "running" if self.is_running else "interrupted"
        if self.record.status == "failed":
            return "failed"
        return "not evaluated" if self.score is None else "evaluated"

    @property
    def state_in_words(self) -> str:
        """The state, with the failure's reason or the number of epochs so far, on one printable line."""
        if self.state == "failed" and self.record is not None:
            return f"failed: {flattened(self.record.reason or 'no reason recorded')}"
        if self.state in ("running", "interrupted"):
            num_epochs = len(self.history.epochs) if self.history else 0
            return f"{self.state}: {num_epochs} epoch{'' if num_epochs == 1 else 's'} recorded"
        return self.state


@dataclass(frozen=True)
class Family:
    """A plan and its runs, in the plan's order. compared: distilled runs by method, where several are compared."""

    name: str
    runs: tuple[RunResult, ...]
    compared: Mapping[str, tuple[RunResult, ...]] = field(default_factory=dict)

    @property
    def all_runs(self) -> tuple[RunResult, ...]:
        """Those that are compared included, each once."""
        compared = (run for runs in self.compared.values() for run in runs)
        return tuple({run.name: run for run in (*self.runs, *compared)}.values())

    def stage(self, stage: Stage) -> tuple[RunResult, ...]:
        """The runs of one stage, in the plan's order."""
        return tuple(run for run in self.runs if run.stage == stage)


@dataclass(frozen=True)
class Measure:
    """digits: behind the point, what some thousand images resolve. unit: '' for a bare number."""

    label: str
    unit: str
    digits: int
    less_is_better: bool


MEASURES = {
    "top1": Measure("top1", "%", 2, less_is_better=False),
    "top5": Measure("top5", "%", 2, less_is_better=False),
    "nll": Measure("NLL", "nats", 4, less_is_better=True),
    "ece": Measure("calibration error", "", 4, less_is_better=True),
    "brier": Measure("Brier score", "", 4, less_is_better=True),
    "agreement": Measure("agreement", "%", 2, less_is_better=False),
    "teacher_kl": Measure("KL of teacher", "nats", 4, less_is_better=True),
}
COMPARED = ("top1", "top5", "nll", "ece", "brier")  # a baseline has no teacher to agree with
