"""A search's folder: what was asked for, Optuna's study of it, and a run folder for each trial.

<results>/<family>/<name>/  search.json  study.journal  trials/<number>/  confirmed.json  .lock

The study is the memory of a search. Every setting that was drawn and every epoch that was heard is in its journal
before anything acts on it, so a command that is killed leaves nothing that the next does not know. Only the holder of
the lock writes there. Imports optuna, neither torch nor ray: the report reads it too.

How a search draws its settings: Optuna's samplers, each trial from a generator of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal
from zlib import crc32

import numpy as np
import optuna
from filelock import AcquireReturnProxy, FileLock, Timeout
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.storages import JournalStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from raykd.atomic import make_folder
from raykd.errors import ConfigError, RunFailed
from raykd.spec.search import Choice, Integer, Search, Space, Uniform
from raykd.store.codec import read_record, require_record, write_record
from raykd.store.damage import damaged
from raykd.store.journal import CheckedJournal
from raykd.store.records import SearchRecord
from raykd.store.run_folder import RunFolder, is_locked, lock_at


class SeededByTrial(BaseSampler):
    """Draws each trial from a generator of its own, named by seed, trial number and, where drawn apart, field.

    A sampler's own generator moves with every draw, and begins again with every process: a search that is taken up
    would draw its first settings a second time. So a draw depends on its name and on what is known, and on no draw
    before it.
    """

    def __init__(self, name: Literal["tpe", "random", "grid"], seed: int) -> None:
        self._name, self._seed = name, seed
        self._sampler = self._make(0)
        self._shared = IntersectionSearchSpace()  # keeps count of the trials that it has looked at

    def _make(self, number: int, field: str = "") -> BaseSampler:
        seed = int(np.random.SeedSequence([self._seed, number, crc32(field.encode())]).generate_state(1)[0])
        if self._name == "tpe":  # constant_liar: trials that run side by side keep away from each other
            return optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        return optuna.samplers.RandomSampler(seed=seed)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self._sampler = self._make(trial.number)
        self._sampler.before_trial(study, trial)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Fields that are drawn together: TPE's, where it has one metric to relate them to."""
        if self._name != "tpe" or len(study.directions) > 1:
            return {}
        return {name: space for name, space in self._shared.calculate(study).items() if not space.single()}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        apart = self._make(trial.number, param_name)
        return apart.sample_independent(study, trial, param_name, param_distribution)


def draw(trial: optuna.Trial, path: str, space: Space) -> Any:
    """A value for `path`: the one that the trial has already, or a new one, which is in the journal then."""
    match space:
        case Uniform(low, high, log):
            return trial.suggest_float(path, low, high, log=log)
        case Integer(low, high, log):
            return trial.suggest_int(path, low, high, log=log)
        case Choice(values):
            return trial.suggest_categorical(path, values)
    raise ConfigError(f"a search cannot draw from {space.title()}")


STUDY = "search"
Ending = Literal["done", "pruned", "failed"]
STATES: dict[TrialState, Literal["waiting", "running"] | Ending] = {
    TrialState.WAITING: "waiting",
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "done",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


@dataclass(frozen=True)
class Trial:
    """One configuration and its results so far.

    intermediate_values: epochs trained -> the search's first metric. values: the metrics at the end, one each.

    state: waiting, running, done, pruned (stopped early) or failed, for a `reason`. seconds: training time, once ended.
    """

    number: int
    state: str
    setting: Mapping[str, Any]
    values: tuple[float, ...]
    intermediate_values: Mapping[int, float]
    reason: str
    seconds: float | None = field(default=None, compare=False)

    @property
    def is_ended(self) -> bool:
        return self.state in ("done", "pruned", "failed")


@dataclass(frozen=True)
class SearchFolder:
    """The files of one search."""

    path: Path

    @property
    def journal(self) -> Path:
        return self.path / "study.journal"

    @property
    def confirmed(self) -> Path:
        """Which settings were trained again with other seeds, JSON."""
        return self.path / "confirmed.json"

    def run(self, number: int) -> RunFolder:
        """Where trial `number` trains."""
        return RunFolder(self.path / "trials" / f"{number:04d}")

    @property
    def record_path(self) -> Path:
        return self.path / "search.json"

    def record(self) -> SearchRecord | None:
        """Return search.json, or None before the search has started. Raises DamagedFile."""
        return read_record(SearchRecord, self.record_path)

    def require_record(self) -> SearchRecord:
        """Return search.json. Raises DamagedFile also where it is missing."""
        return require_record(SearchRecord, self.record_path)

    def write_record(self, record: SearchRecord) -> None:
        write_record(self.record_path, record)

    def update(self, **changes: Any) -> None:
        """Replace fields of search.json. Raises DamagedFile where it is missing."""
        self.write_record(replace(self.require_record(), **changes))

    def lock(self) -> AcquireReturnProxy:
        """Its holder is the only one who searches here. Raises RunFailed when another is at it."""
        make_folder(self.path)
        try:
            return self._lock.acquire(timeout=1)  # who only looks has it for an instant
        except Timeout:
            raise RunFailed(f"another command is at the search in {self.path}; wait for it, or end it") from None

    def is_held(self) -> bool:
        """Whether a command is searching now."""
        return is_locked(self._lock)

    @property
    def _lock(self) -> FileLock:
        return lock_at(self.path / ".lock")

    def trials(self) -> list[Trial]:
        """Return all trials of the study, by number. Raises DamagedFile."""
        if not self.journal.exists():
            return []
        try:
            study = optuna.load_study(study_name=STUDY, storage=storage_of(self.journal))
        except KeyError:  # its first lines are not written yet
            return []
        except OSError as error:
            raise damaged(self.journal, f"it cannot be read ({error.strerror})") from None
        return [_trial(found) for found in study.get_trials(deepcopy=False)]


class Study:
    """Optuna's study, for the one that holds the folder's lock: draws settings, hears epochs, notes ends."""

    def __init__(self, folder: SearchFolder, search: Search, default_setting: Mapping[str, Any]) -> None:
        """default_setting: the experiment's value of each searched field, tried first if the space holds it."""
        _mend(folder.journal)
        self._storage = storage_of(folder.journal)
        self._spaces = search.space
        sampler = SeededByTrial(search.sampler, search.seed)
        largest, smallest = StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE
        directions = [largest if direction == "max" else smallest for direction in search.directions]
        self._study = optuna.create_study(
            study_name=STUDY, storage=self._storage, sampler=sampler, directions=directions, load_if_exists=True
        )
        if not self._study.get_trials(deepcopy=False):
            for setting in search.grid if search.sampler == "grid" else _first(search, default_setting):
                self._study.enqueue_trial(setting)

    def trials(self) -> list[Trial]:
        """By number."""
        return [_trial(found) for found in self._study.get_trials(deepcopy=False)]

    def begin(self) -> Trial:
        """The next setting to try."""
        return self._drawn(self._study.ask())

    def resume_trial(self, number: int) -> Trial:
        """A trial that an earlier command began, its setting drawn to the end should that one not have come so far."""
        return self._drawn(optuna.Trial(self._study, self._id(number)))

    def _drawn(self, trial: optuna.Trial) -> Trial:
        for path, space in self._spaces.items():
            draw(trial, path, space)
        return _trial(self._storage.get_trial(self._id(trial.number)))

    def report_value(self, number: int, epochs: int, value: float) -> None:
        """The metric of a trial after so many epochs."""
        self._storage.set_trial_intermediate_value(self._id(number), epochs, value)

    def end(
        self,
        number: int,
        state: Ending,
        values: Sequence[float] | None = None,
        reason: str = "",
        seconds: float | None = None,
    ) -> None:
        """How a trial ended, after so many seconds of training; values where it is done, one for each metric."""
        for name, value in {"reason": reason, "seconds": seconds}.items():
            if value not in ("", None):
                self._storage.set_trial_user_attr(self._id(number), name, value)
        found = next(trial_state for trial_state, name in STATES.items() if name == state)
        self._study.tell(number, values if state == "done" else None, found)

    def _id(self, number: int) -> int:
        study = self._storage.get_study_id_from_name(STUDY)
        return self._storage.get_trial_id_from_study_id_trial_number(study, number)


def num_ended(trials: Sequence[Trial]) -> int:
    """Return the number of trials that are done, pruned or failed."""
    return sum(trial.is_ended for trial in trials)


def best_first(trials: Sequence[Trial], settings: Search) -> list[Trial]:
    """Of several metrics only trials that no other beats in all; by the first, then by number."""
    signs = [1 if direction == "max" else -1 for direction in settings.directions]

    def beats(one: Trial, other: Trial) -> bool:
        pairs = [(sign * a, sign * b) for sign, a, b in zip(signs, one.values, other.values, strict=True)]
        return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)

    front = [trial for trial in trials if len(signs) == 1 or not any(beats(other, trial) for other in trials)]
    return sorted(front, key=lambda trial: (-signs[0] * trial.values[0], trial.number))


def _first(search: Search, default_setting: Mapping[str, Any]) -> list[dict[str, Any]]:
    is_in_space = all(space.holds(default_setting[path]) for path, space in search.space.items())
    return [dict(default_setting)] if is_in_space else []


def _trial(found: FrozenTrial) -> Trial:
    values = tuple(found.values) if found.values else ()
    setting = found.params or found.system_attrs.get("fixed_params", {})
    return Trial(
        found.number,
        STATES[found.state],
        setting,
        values,
        dict(sorted(found.intermediate_values.items())),
        found.user_attrs.get("reason", ""),
        found.user_attrs.get("seconds"),
    )


def storage_of(journal: Path) -> JournalStorage:
    """The journal, opened; Optuna then logs warnings only."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return JournalStorage(CheckedJournal(journal))


def _mend(journal: Path) -> None:
    """Cut off a last line that a killed writer left half written: Optuna would refuse the journal."""
    if not journal.is_file():
        return
    with journal.open("rb+") as file:
        content = file.read()
        if (end := content.rfind(b"\n") + 1) < len(content) and b"\0" not in content[end:]:
            file.truncate(end)
