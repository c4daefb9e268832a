"""A run as the report reads it: its record, its epochs, its metrics on validation and test images, its costs.

top1 is in percent, epochs count from 0, times are in seconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from raykd.errors import flattened, plural
from raykd.outputs import HISTORY_COLUMNS
from raykd.spec.published import PublishedPair
from raykd.spec.stages import Stage
from raykd.store.records import Costs, Metrics, RunRecord

State = Literal["not started", "running", "interrupted", "failed", "not evaluated", "evaluated"]

ENDED: tuple[State, ...] = ("evaluated", "not evaluated")  # the run's training is complete


@dataclass(frozen=True)
class History:
    """A run's epochs: one value per epoch in each column, NaN where the file has none."""

    epochs: tuple[int, ...]
    columns: Mapping[str, tuple[float, ...]]

    @property
    def loss_terms(self) -> tuple[str, ...]:
        """The names of the loss terms in the order of the file."""
        return tuple(name for name in self.columns if name not in HISTORY_COLUMNS)


@dataclass(frozen=True)
class Usage:
    """usage/*.json: the GPU time and energy of all workers over all resumes.

    gpu_seconds: seconds times GPUs, which may be fractions; 0 on CPUs. joules: None if any part of the energy is
    unknown, for the reasons in `joules_missing_reason`.
    """

    gpu_seconds: float
    joules: float | None
    joules_missing_reason: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunResult:
    """One run of the plan. record: None if it has not started. warnings: about damaged or mismatched files.

    is_running: whether a process is training it now.
    """

    name: str
    stage: Stage
    record: RunRecord | None = None
    history: History | None = None
    test: Metrics | None = None
    val: Metrics | None = None
    costs: Costs | None = None
    usage: Usage | None = None
    warnings: tuple[str, ...] = ()
    is_running: bool = False

    @property
    def state(self) -> State:
        """The progress of the run. Only a done run can be evaluated."""
        if self.record is None:
            return "not started"
        if self.record.status == "running":
            return "running" if self.is_running else "interrupted"
        if self.record.status == "failed":
            return "failed"
        return "not evaluated" if self.test is None else "evaluated"

    @property
    def state_in_words(self) -> str:
        """The state, with the failure's reason or the number of epochs so far, on one printable line."""
        if self.state == "failed" and self.record is not None:
            return f"failed: {flattened(self.record.reason or 'no reason recorded')}"
        if self.state in ("running", "interrupted"):
            return f"{self.state}: {plural(len(self.history.epochs) if self.history else 0, 'epoch')} recorded"
        return self.state


@dataclass(frozen=True)
class Family:
    """A plan and its runs in the plan's order. compared: distilled runs by method, if several are compared.

    published: the pair of networks whose published accuracies are shown, None for none. command: the last command that
    planned the runs, '' if it is not recorded.
    """

    name: str
    runs: tuple[RunResult, ...]
    compared: Mapping[str, tuple[RunResult, ...]] = field(default_factory=dict)
    published: PublishedPair | None = None
    command: str = ""

    @property
    def all_runs(self) -> tuple[RunResult, ...]:
        """All runs, including the compared ones, each once."""
        compared = (run for runs in self.compared.values() for run in runs)
        return tuple({run.name: run for run in (*self.runs, *compared)}.values())

    def stage(self, stage: Stage) -> tuple[RunResult, ...]:
        """Return the runs of one stage, in the plan's order."""
        return tuple(run for run in self.runs if run.stage == stage)
