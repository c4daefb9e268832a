"""A search as the report reads it: its trials, its cost, and the records of raykd/store/records.py.

top1 is in percent, losses are in nats, times are seconds of training.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from raykd.errors import flattened
from raykd.spec.search import Search
from raykd.store.records import (
    END_STATES,
    CandidateRecord,
    CommandParts,
    ConfirmationRecord,
    RunRecord,
    SearchRecord,
    TopClasses,
    TrialState,
)

SearchState = Literal["running", "interrupted", "failed", "done"]


@dataclass(frozen=True)
class TrialSummary:
    """One trial that was started. values: one number per metric of a done trial, () for any other.

    curve: (epochs trained, the metric of the epoch that the trial would keep); validation top-1 if the metric does not
    change by epoch. run: the record of its run, None before its training started.
    seconds: training time; None if neither this trial nor another recorded a time. is_estimated: `seconds` is
    epochs_trained times the pace of recorded epochs, of this trial or of others. folder: its run folder, relative to
    the search's; '' before its training started.
    """

    number: int
    state: TrialState
    configuration: Mapping[str, Any]
    values: tuple[float, ...]
    curve: tuple[tuple[int, float], ...]
    epochs_trained: int
    epochs: int
    seconds: float | None
    is_estimated: bool
    reason: str
    folder: str
    run: RunRecord | None

    @property
    def is_ended(self) -> bool:
        """Whether the trial is done, pruned or failed."""
        return self.state in END_STATES

    @property
    def keeps_last(self) -> bool:
        """Whether the trial keeps the last epoch, and not the best one."""
        return self.run is not None and self.run.configuration.recipe.keep == "last"

    @property
    def reason_in_line(self) -> str:
        """Why the trial failed, on one printable line; '' if it did not."""
        return flattened(self.reason or "no reason recorded") if self.state == "failed" else ""


@dataclass(frozen=True)
class TeacherCost:
    """How the trials used their teacher. passes: of a live teacher over each image, one per epoch.

    source: None while no trial has recorded it. views: mean number of cached views of an image; None without the
    cache. fill_seconds: seconds that this search spent on filling the cache, summed over its parts. top_classes:
    what the cache keeps of each view; None for all logits.
    """

    source: Literal["cache", "live"] | None
    passes: int
    views: float | None
    fill_seconds: float
    top_classes: TopClasses | None = None

    @property
    def live_seconds(self) -> float | None:
        """A lower bound on the seconds of `passes` at the speed of filling the cache; None if that is unknown.

        It is a lower bound because views that another command cached are not part of `fill_seconds`.
        """
        if self.source != "cache" or not self.views or self.fill_seconds <= 0:
            return None
        return self.passes * self.fill_seconds / self.views


@dataclass(frozen=True)
class Cost:
    """The costs of the trials. device_seconds: seconds of training times the trial's GPUs, or its CPUs without a GPU.

    saved_epochs and saved_device_seconds: saved by stopping trials early. num_estimated: trials that recorded no time.
    None: not known yet.
    """

    device: Literal["GPU", "CPU"] | None
    devices_of_trial: float
    epochs_trained: int
    device_seconds: float | None
    num_timed: int
    num_estimated: int
    saved_epochs: int
    saved_device_seconds: float | None
    teacher: TeacherCost

    def seconds_of(self, trial: TrialSummary) -> float | None:
        """Return the device seconds of one trial."""
        return None if trial.seconds is None or self.device is None else trial.seconds * self.devices_of_trial


@dataclass(frozen=True)
class SearchSummary:
    """Everything that the report reads about one search. path: its folder. page: the HTML file to write.

    is_locked: whether a process is running the search. best: numbers of done trials, the best first; with several
    metrics, the Pareto-optimal ones. command: the last one that planned runs of the family, None if it is not known.
    """

    path: Path
    page: Path
    search: Search
    record: SearchRecord
    is_locked: bool
    trials: tuple[TrialSummary, ...]
    best: tuple[int, ...]
    confirmation: ConfirmationRecord | None
    cost: Cost
    command: CommandParts | None = None

    @property
    def family(self) -> str:
        """The experiment's family."""
        return self.path.parent.name

    @property
    def name(self) -> str:
        """The search's name."""
        return self.path.name

    @property
    def full_name(self) -> str:
        """The search's name after that of its family."""
        return f"{self.family}/{self.name}"

    @property
    def state(self) -> SearchState:
        """The state of the search.

        'running': a process runs it. 'done': nothing is left to train. 'failed': no trial finished.
        'interrupted': none of these.
        """
        if self.is_locked:
            return "running"
        if self.num_ended < self.search.num_trials:
            return "interrupted"
        if not self.best:
            return "failed"
        return "done" if self.is_confirmed or not self.search.confirm else "interrupted"

    @property
    def is_confirmed(self) -> bool:
        """Whether the confirmation has the seeds and the number of configurations that the search now requires."""
        done = self.confirmation
        return done is not None and done.num_requested == self.search.confirm and done.seeds == self.record.seeds

    def count(self, state: TrialState) -> int:
        """Return the number of trials in `state`."""
        return sum(trial.state == state for trial in self.trials)

    @property
    def num_ended(self) -> int:
        """Number of trials that are done, pruned or failed."""
        return sum(trial.is_ended for trial in self.trials)

    @property
    def best_trial(self) -> TrialSummary | None:
        """The best done trial by the first metric."""
        return self.trial(self.best[0]) if self.best else None

    @property
    def winner(self) -> CandidateRecord | None:
        """The winner of the confirmation; without one, the best trial; None while no trial is done."""
        if self.confirmation is not None:
            return self.confirmation.best_candidate
        best = self.best_trial
        return None if best is None else CandidateRecord(best.number, best.configuration, (), ())

    @property
    def default_trial(self) -> TrialSummary | None:
        """The trial of the default configuration; None if the search space does not contain it."""
        return next((trial for trial in self.trials if trial.configuration == self.record.default_configuration), None)

    @property
    def trial_of_winner(self) -> TrialSummary | None:
        """The trial of the winner's configuration; None as for `default_trial`, or without a winner."""
        winner = self.winner
        if winner is None:
            return None
        return self.default_trial if winner.trial is None else self.trial(winner.trial)

    @property
    def winner_config(self) -> Mapping[str, Any]:
        """The recorded configuration of a run with the winner's configuration, as run.json has it; {} if not known.

        A default configuration that no trial has is that of a trial with the experiment's recipe and method.
        """
        trial, identity = self.trial_of_winner, self.record.identity
        if trial is not None:
            return trial.run.config if trial.run else {}
        runs = [trial.run for trial in self.trials if trial.run]
        if self.winner is None or not runs or not {"student", "method"} <= identity.keys():
            return {}
        return {**runs[0].config, "recipe": identity["student"], "method": identity["method"]}

    def trial(self, number: int) -> TrialSummary:
        """Return the trial with that number."""
        return next(trial for trial in self.trials if trial.number == number)
