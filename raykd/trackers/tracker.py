"""The interface of a tracker, and what it receives of a run."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

State = Literal["running", "done", "failed", "interrupted"]


@dataclass(frozen=True)
class TrackedRun:
    """A run, or the parent of runs: the family, or a search.

    kind: the stage, 'trial', 'search' or 'family'. group: 'cnn', or 'cnn/search' for what belongs to a search.
    settings: the configuration, {path for --set: value}. started: seconds since 1970.
    """

    name: str
    kind: str
    family: str
    group: str
    settings: Mapping[str, str]
    started: float


@dataclass(frozen=True)
class Epoch:
    """The values of one epoch by name. seconds: the training time until its end, over all resumes."""

    number: int
    seconds: float
    values: Mapping[str, float]


class Tracker(ABC):
    """A place for curves and results. One thread calls it; any exception is logged, and the call is repeated later."""

    name: ClassVar[str]
    store: str  # identifies the place, so that the ids of another one are not used for it
    where: str  # how to look at it, for the log

    @abstractmethod
    def open(self, run: TrackedRun, run_id: str | None, parent_id: str | None) -> str:
        """Create the tracker's run, or continue that with `run_id` if it still exists, and return its id.

        A run that is open already stays open.
        """

    @abstractmethod
    def log_epochs(self, run_id: str, epochs: Sequence[Epoch]) -> None:
        """Log epochs, oldest first. After a failure, some may have been logged before."""

    @abstractmethod
    def log_results(self, run_id: str, results: Mapping[str, float]) -> None:
        """Log or replace values of the whole run, such as 'test/top1'."""

    @abstractmethod
    def attach(self, run_id: str, files: Sequence[Path]) -> None:
        """Store copies of the files with the run, and replace those of the same names."""

    @abstractmethod
    def end(self, run_id: str, state: State) -> None:
        """Set the state of a run, and close it."""

    @abstractmethod
    def close(self) -> None:
        """Close what is open, and end every process that the tracker started."""

    @abstractmethod
    def abort(self) -> None:
        """End a call that does not return, from another thread, so that the command can end."""
