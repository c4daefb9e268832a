"""What the report knows of a search: its trials, what confirmed the best of them, what it cost.

Read once by `search_summary`, never changed. top1 is in percent, losses in nats, times are seconds of training.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from raykd.errors import flattened
from raykd.report.stats.statistics import PairedGain, Spread, spread_of
from raykd.spec.search import Search

TrialState = Literal["begun", "done", "stopped", "failed"]
SearchState = Literal["running", "cut off", "failed", "done"]


@dataclass(frozen=True)
class TrialSummary:
    """One trial that began. `values` has one number a metric where the trial is done, and is empty elsewhere.

    curve: (epochs trained, the metric of the best epoch so far); of a metric that no epoch changes, validation top1.
    epochs_trained of epochs. seconds: of training; None where neither it nor any other trial wrote a time down.
    is_estimated: whether they are epochs_trained at a pace measured elsewhere.
    """

    number: int
    state: TrialState
    setting: Mapping[str, Any]
    values: tuple[float, ...]
    curve: tuple[tuple[int, float], ...]
    epochs_trained: int
    epochs: int
    seconds: float | None
    is_estimated: bool
    reason: str

    @property
    def is_ended(self) -> bool:
        """Whether nothing more comes of it."""
        return self.state in ("done", "stopped", "failed")

    @property
    def reason_in_line(self) -> str:
        """Why it failed, on one printable line; '' where it did not."""
        return flattened(self.reason or "no reason recorded") if self.state == "failed" else ""


@dataclass(frozen=True)
class Candidate:
    """A setting that was trained with the experiment's seeds. trial: which found it; None for the experiment's own.

    failed: why one of its seeds has no result, '' where all have; it has no values then.
    """

    trial: int | None
    setting: Mapping[str, Any]
    values: tuple[float, ...]
    failed: str = ""

    @property
    def spread(self) -> Spread | None:
        """Over the seeds."""
        return spread_of(self.values)


@dataclass(frozen=True)
class Baseline:
    """The student without a teacher, trained with the same seeds. recipe: its value of each student.* field searched.

    failed: why one of its seeds has no result, '' where all have; it has no values then.
    """

    recipe: Mapping[str, Any]
    values: tuple[float, ...]
    failed: str = ""

    @property
    def spread(self) -> Spread | None:
        """Over the seeds."""
        return spread_of(self.values)

    def differences(self, setting: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
        """{field: (the baseline's value, the value in `setting`)} of the student's fields in which they differ."""
        fields = [path for path in setting if path.startswith("student.")]
        return {
            path: (self.recipe.get(path), setting[path]) for path in fields if self.recipe.get(path) != setting[path]
        }


@dataclass(frozen=True)
class Confirmation:
    """confirmed.json: the best settings and the experiment's own trained with `seeds`, and the baseline beside them.

    over_default and over_baseline are the winner's gains, paired by seed, positive where it is better (of a loss too).
    over_default is None where the winner is the experiment's own setting; each is None where what it is over failed.
    """

    metric: str
    seeds: tuple[int, ...]
    candidates: tuple[Candidate, ...]
    baseline: Baseline
    winner: Candidate
    over_default: PairedGain | None
    over_baseline: PairedGain | None
    runs_of_winner: tuple[str, ...]
    is_whole: bool

    @property
    def num_found(self) -> int:
        """Candidates that the search found."""
        return sum(candidate.trial is not None for candidate in self.candidates)


@dataclass(frozen=True)
class Teaching:
    """How the trials had their teacher. passes: of it for each image, had it been asked live: an epoch is one.

    source: 'cache', 'live', or None while no trial says. views: of an image that the logit cache holds; None where it
    is gone. fill_seconds: of a slot, spent by this search on filling it.
    """

    source: Literal["cache", "live"] | None
    passes: int
    views: float | None
    fill_seconds: float

    @property
    def live_seconds(self) -> float | None:
        """Seconds of a slot that `passes` would have taken, at least; None where its filling tells no speed.

        At least: views that were there before, or came later, were not filled in `fill_seconds`.
        """
        if self.source != "cache" or not self.views or self.fill_seconds <= 0:
            return None
        return self.passes * self.fill_seconds / self.views


@dataclass(frozen=True)
class Cost:
    """What the trials took. device_seconds: seconds of training times the GPUs of a trial, or its CPUs without any.

    saved_epochs and saved_device_seconds: what trials that were stopped early left out. num_estimated: trials that
    wrote no time down. None: not known yet.
    """

    device: Literal["GPU", "CPU"] | None
    devices_of_trial: float
    epochs_trained: int
    device_seconds: float | None
    num_timed: int
    num_estimated: int
    saved_epochs: int
    saved_device_seconds: float | None
    teaching: Teaching

    def of(self, trial: TrialSummary) -> float | None:
        """Device seconds of one trial."""
        return None if trial.seconds is None or self.device is None else trial.seconds * self.devices_of_trial


@dataclass(frozen=True)
class SearchSummary:
    """What the report says of one search. `path` is its folder, `page` the file of its page.

    best: numbers of done trials, the best first; of several metrics only those that none beats in all.
    """

    path: Path
    page: Path
    search: Search
    own: Mapping[str, Any]
    epochs: int
    seeds: tuple[int, ...]
    started: str
    is_held: bool
    origin: Mapping[str, Any]
    trials: tuple[TrialSummary, ...]
    best: tuple[int, ...]
    confirmation: Confirmation | None
    cost: Cost

    @property
    def family(self) -> str:
        """The experiment's."""
        return self.path.parent.name

    @property
    def name(self) -> str:
        """The search's own, which is its folder's."""
        return self.path.name

    @property
    def state(self) -> SearchState:
        """done: nothing is left to train. failed: no trial came to its end. cut off: neither, and nobody is at it."""
        if self.is_held:
            return "running"
        if sum(trial.is_ended for trial in self.trials) < self.search.num_trials:
            return "cut off"
        if not self.best:
            return "failed"
        is_confirmed = self.confirmation is not None and self.confirmation.is_whole
        return "done" if is_confirmed or not self.search.confirm else "cut off"

    def count(self, state: TrialState) -> int:
        """Trials in `state`."""
        return sum(trial.state == state for trial in self.trials)

    @property
    def num_ended(self) -> int:
        """Trials of which nothing more comes."""
        return sum(trial.is_ended for trial in self.trials)

    @property
    def best_trial(self) -> TrialSummary | None:
        """The best that is done, by the first metric."""
        return self.trial(self.best[0]) if self.best else None

    @property
    def winner(self) -> Candidate | None:
        """What confirmation picked, or the best trial while nothing is confirmed; None while none is done."""
        if self.confirmation is not None:
            return self.confirmation.winner
        best = self.best_trial
        return None if best is None else Candidate(best.number, best.setting, ())

    @property
    def default_trial(self) -> TrialSummary | None:
        """The trial that tried the experiment's own setting."""
        return next((trial for trial in self.trials if dict(trial.setting) == dict(self.own)), None)

    @property
    def trial_of_winner(self) -> TrialSummary | None:
        """The trial that tried the winner's setting; the experiment's own may lie outside of the space."""
        winner = self.winner
        if winner is None:
            return None
        return self.default_trial if winner.trial is None else self.trial(winner.trial)

    def trial(self, number: int) -> TrialSummary:
        """The one of that number."""
        return next(trial for trial in self.trials if trial.number == number)
