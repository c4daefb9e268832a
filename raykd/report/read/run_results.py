"""A run as the report reads it: its record, its epochs, its metrics on validation and test images, its costs.

top1 is in percent, epochs count from 0, times are in seconds.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from raykd.errors import flattened, plural
from raykd.outputs import HISTORY_COLUMNS
from raykd.spec.published import PublishedPair
from raykd.spec.stages import Stage
from raykd.store.recorded_config import RecordedData, RecordedExperiment
from raykd.store.records import Costs, Metrics, RunRecord

State = Literal["not started", "running", "interrupted", "failed", "not evaluated", "evaluated"]

ENDED: tuple[State, ...] = ("evaluated", "not evaluated")  # the run's training is complete

# The name of a run's folder: '<stage>-<model>[-<method>]-s<seed>-<digits of the fingerprint>', see spec/plan.py.
_NAME = re.compile(r"(?:teacher|baseline|distilled)-(?P<labels>.+)-(?:s(?P<seed>\d{1,19})|imported)-[0-9a-f]+")


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
    def seed(self) -> int | None:
        """The recorded seed, or that in the name of a run that has not started; None if neither has it."""
        if self.record is not None:
            return self.record.seed
        match = _NAME.fullmatch(self.name)
        return int(match["seed"]) if match and match["seed"] else None

    @property
    def seconds(self) -> float | None:
        """The training time so far, over all resumes; None before the first epoch."""
        if self.record is None:
            return None
        if self.state in ENDED:
            return self.record.seconds
        recorded = self.history.columns.get("seconds", ()) if self.history else ()
        return next((seconds for seconds in reversed(recorded) if math.isfinite(seconds)), None)

    def planned_model(self, method: str) -> str | None:
        """Return the network's label from the run's name; None if it has another form. method: of distilled runs."""
        match = _NAME.fullmatch(self.name)
        if match is None:
            return None
        suffix = f"-{method.replace('_', '-')}" if self.stage == "distilled" else ""
        return flattened(match["labels"].removesuffix(suffix)) if match["labels"].endswith(suffix) else None

    @property
    def state_in_words(self) -> str:
        """The state, with the failure's reason or the number of epochs so far, on one printable line."""
        if self.state == "failed" and self.record is not None:
            return f"failed: {flattened(self.record.reason or 'no reason recorded')}"
        if self.state in ("running", "interrupted"):
            return f"{self.state}: {plural(len(self.history.epochs) if self.history else 0, 'epoch')} recorded"
        return self.state


@dataclass(frozen=True)
class UnplannedRuns:
    """The names of the runs, how many there are of each method, and the fields in which they differ from the plan.

    A baseline counts as the method 'baseline'. Fields are the paths of --set.
    """

    names: tuple[str, ...]
    methods: Mapping[str, int]
    fields: tuple[str, ...]


@dataclass(frozen=True)
class Family:
    """A plan and its runs in the plan's order. compared: distilled runs by method, if several are compared.

    published: the pair of networks whose published accuracies are shown, None for none. command: the last command that
    planned the runs, '' if it is not recorded. experiment: the plan's experiment as recorded.
    unplanned: the evaluated runs in the folder that the plan does not name, None without any.
    """

    name: str
    runs: tuple[RunResult, ...]
    compared: Mapping[str, tuple[RunResult, ...]] = field(default_factory=dict)
    published: PublishedPair | None = None
    command: str = ""
    experiment: RecordedExperiment = RecordedExperiment({})
    unplanned: UnplannedRuns | None = None

    @property
    def all_runs(self) -> tuple[RunResult, ...]:
        """All runs, including the compared ones, each once."""
        compared = (run for runs in self.compared.values() for run in runs)
        return tuple({run.name: run for run in (*self.runs, *compared)}.values())

    @property
    def data(self) -> RecordedData:
        """The recorded fields of the students' data, or those of the plan."""
        records = [run.record for run in self.all_runs if run.record and run.stage != "teacher"]
        return records[0].configuration.data if records else self.experiment.data

    def stage(self, stage: Stage) -> tuple[RunResult, ...]:
        """Return the runs of one stage, in the plan's order."""
        return tuple(run for run in self.runs if run.stage == stage)
