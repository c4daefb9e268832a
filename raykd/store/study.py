"""A search's folder: the record of the search, its Optuna study, and a run folder for each trial.

<results>/<family>/<name>/  search.json  study.journal  trials/<number>/  confirmed.json  .lock

Every sampled configuration and every reported value is written to the study's journal before it is used, so a search
resumes exactly after its command was killed. Only the holder of the folder's lock writes there. Imports optuna, but
neither torch nor ray, because the report reads these folders too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from zlib import crc32

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.storages import JournalStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from raykd.disk.damage import damaged, require_regular
from raykd.disk.lookup import is_file, is_there
from raykd.errors import ConfigError
from raykd.spec.search import Choice, Integer, Search, Space, Uniform
from raykd.spec.stages import REPORT, TRIALS
from raykd.store.journal import CheckedJournal, ReadOnlyJournal
from raykd.store.locked_folder import FileIn, LockedFolder
from raykd.store.records import END_STATES, EndState, SearchRecord, TrialState
from raykd.store.run_folder import RunFolder


class PerTrialSeedSampler(BaseSampler):
    """One of Optuna's samplers with a new random generator for each trial, seeded by the search's seed and the number.

    One generator for all trials would restart with every process, so a resumed search would sample its first
    configurations again. Here a sample depends on the seed, the trial's number, the field's name (for fields that are
    sampled independently) and the recorded trials, but not on earlier samples of the same process.
    """

    def __init__(self, name: Literal["tpe", "random", "grid"], seed: int) -> None:
        self._name, self._seed = name, seed
        self._sampler = self._make(0)
        self._shared_space = IntersectionSearchSpace()  # reads each ended trial once

    def _make(self, number: int, field: str = "") -> BaseSampler:
        """Return Optuna's sampler for the trial `number`, or for one field of it."""
        seed = int(np.random.SeedSequence([self._seed, number, crc32(field.encode())]).generate_state(1)[0])
        if self._name == "tpe":  # constant_liar: concurrent trials avoid each other's configurations
            return optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        return optuna.samplers.RandomSampler(seed=seed)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self._sampler = self._make(trial.number)
        self._sampler.before_trial(study, trial)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the fields to sample jointly: for TPE with one metric, those that all trials share."""
        if self._name != "tpe" or len(study.directions) > 1:
            return {}
        return {name: space for name, space in self._shared_space.calculate(study).items() if not space.single()}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        sampler = self._make(trial.number, param_name)
        return sampler.sample_independent(study, trial, param_name, param_distribution)


def suggest(trial: optuna.Trial, path: str, space: Space) -> Any:
    """Return the trial's value of the field `path`. A new value is sampled and written to the journal."""
    match space:
        case Uniform(low, high, log):
            return trial.suggest_float(path, low, high, log=log)
        case Integer(low, high, log):
            return trial.suggest_int(path, low, high, log=log)
        case Choice(values):
            return trial.suggest_categorical(path, values)
    raise ConfigError(f"a search cannot sample from {space.title()}")


STUDY_NAME = "search"  # the study's name in its journal
STATES: dict[optuna.trial.TrialState, TrialState] = {
    optuna.trial.TrialState.WAITING: "waiting",
    optuna.trial.TrialState.RUNNING: "running",
    optuna.trial.TrialState.COMPLETE: "done",
    optuna.trial.TrialState.PRUNED: "pruned",
    optuna.trial.TrialState.FAIL: "failed",
}


@dataclass(frozen=True)
class SearchTrial:
    """One configuration of the searched fields and its results so far."""

    number: int
    state: TrialState
    configuration: Mapping[str, Any]  # values by dotted path
    values: tuple[float, ...]  # final value of each metric of a done trial, else ()
    intermediate_values: Mapping[int, float]  # the search's first metric by the number of epochs trained
    reason: str  # why a failed trial failed, else ''
    seconds: float | None = field(default=None, compare=False)  # training time of an ended trial

    @property
    def is_ended(self) -> bool:
        """Whether the trial is done, pruned or failed."""
        return self.state in END_STATES


@dataclass(frozen=True)
class SearchFolder(LockedFolder[SearchRecord]):
    """The files of one search."""

    record_class = SearchRecord
    record_path = FileIn("search.json")
    journal = FileIn("study.journal")
    confirmed = FileIn("confirmed.json")  # ConfirmationRecord: the best configurations, trained with several seeds

    @property
    def full_name(self) -> str:
        """The name of the search in commands, '<family>/<name>'."""
        return f"{self.path.parent.name}/{self.path.name}"

    def run(self, number: int) -> RunFolder:
        """Return the run folder of trial `number`."""
        return RunFolder(self.path / TRIALS / f"{number:04d}")

    @property
    def page_folder(self) -> Path:
        """The folder of the search's page of the report. No two searches share it: a family's name has no hyphen."""
        return self.path.parents[1] / REPORT / f"{self.path.parent.name}-{self.path.name}"

    @property
    def described(self) -> str:
        """The description of the folder in messages about its lock."""
        return f"the search in {self.path}"

    def trials(self) -> list[SearchTrial]:
        """Return all trials of the study, by number. Raises DamagedFile."""
        if not is_there(self.journal):
            return []
        try:
            study = optuna.load_study(study_name=STUDY_NAME, storage=open_storage(self.journal, is_read_only=True))
            return [_trial_of(frozen) for frozen in study.get_trials(deepcopy=False)]
        except (KeyError, FileNotFoundError):  # the study's first line is not written yet, or the search was removed
            return []
        except OSError as error:
            raise damaged(self.journal, f"it cannot be read ({error.strerror})") from None


class SearchStudy:
    """The search's Optuna study, for the holder of the folder's lock. It samples configurations and records results.

    default_configuration: the experiment's value of each searched field. It is the first trial if the search space
    contains it.
    """

    def __init__(self, folder: SearchFolder, search: Search, default_configuration: Mapping[str, Any]) -> None:
        _remove_incomplete_line(folder.journal)
        self._storage = open_storage(folder.journal)
        self._spaces = search.space
        sampler = PerTrialSeedSampler(search.sampler, search.seed)
        optuna_direction = {"max": StudyDirection.MAXIMIZE, "min": StudyDirection.MINIMIZE}
        directions = [optuna_direction[direction] for direction in search.directions]
        self._study = optuna.create_study(
            study_name=STUDY_NAME, storage=self._storage, sampler=sampler, directions=directions, load_if_exists=True
        )
        is_in_space = all(space.holds(default_configuration[path]) for path, space in search.space.items())
        default = [dict(default_configuration)] if is_in_space else []
        configurations = search.grid if search.sampler == "grid" else default
        # An earlier command may have been killed after it enqueued only some of them.
        for configuration in configurations[len(self._study.get_trials(deepcopy=False)) :]:
            self._study.enqueue_trial(configuration)

    def trials(self) -> list[SearchTrial]:
        """Return all trials of the study, by number."""
        return [_trial_of(frozen) for frozen in self._study.get_trials(deepcopy=False)]

    def start_trial(self) -> SearchTrial:
        """Start the next trial: a waiting one, or a new one with a sampled configuration."""
        return self._sample_configuration(self._study.ask())

    def resume_trial(self, number: int) -> SearchTrial:
        """Return a trial that an earlier command started. Its fields without a value are sampled."""
        return self._sample_configuration(optuna.Trial(self._study, self._id(number)))

    def _sample_configuration(self, trial: optuna.Trial) -> SearchTrial:
        for path, space in self._spaces.items():
            suggest(trial, path, space)
        return _trial_of(self._storage.get_trial(self._id(trial.number)))

    def report_value(self, number: int, epochs: int, value: float) -> None:
        """Record the first metric of a trial after `epochs` epochs."""
        self._storage.set_trial_intermediate_value(self._id(number), epochs, value)

    def finish_trial(
        self,
        number: int,
        state: EndState,
        values: Sequence[float] | None = None,
        reason: str = "",
        seconds: float | None = None,
    ) -> None:
        """Record the end of a trial. values: one per metric, ignored unless it is done. seconds: its training time."""
        for name, value in {"reason": reason, "seconds": seconds}.items():
            if value not in ("", None):
                self._storage.set_trial_user_attr(self._id(number), name, value)
        optuna_state = next(optuna_state for optuna_state, name in STATES.items() if name == state)
        self._study.tell(number, values if state == "done" else None, optuna_state)

    def _id(self, number: int) -> int:
        study = self._storage.get_study_id_from_name(STUDY_NAME)
        return self._storage.get_trial_id_from_study_id_trial_number(study, number)


def num_ended(trials: Sequence[SearchTrial]) -> int:
    """Return the number of trials that are done, pruned or failed."""
    return sum(trial.is_ended for trial in trials)


def best_first(trials: Sequence[SearchTrial], search: Search) -> list[SearchTrial]:
    """Return the done trials by the first metric, best first, then by number.

    With several metrics only the Pareto-optimal ones are returned.
    """
    done = [trial for trial in trials if trial.state == "done"]
    signs = [1 if direction == "max" else -1 for direction in search.directions]

    def dominates(one: SearchTrial, other: SearchTrial) -> bool:
        pairs = [(sign * a, sign * b) for sign, a, b in zip(signs, one.values, other.values, strict=True)]
        return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)

    best = [trial for trial in done if len(signs) == 1 or not any(dominates(other, trial) for other in done)]
    return sorted(best, key=lambda trial: (-signs[0] * trial.values[0], trial.number))


def _trial_of(frozen: FrozenTrial) -> SearchTrial:
    state = STATES[frozen.state]
    configuration = frozen.params or frozen.system_attrs.get("fixed_params", {})  # a waiting trial has no params
    return SearchTrial(
        frozen.number,
        state,
        configuration,
        tuple(frozen.values or ()) if state == "done" else (),  # Optuna copies the last one to a pruned trial
        dict(sorted(frozen.intermediate_values.items())),
        frozen.user_attrs.get("reason", ""),
        frozen.user_attrs.get("seconds"),
    )


def open_storage(journal: Path, is_read_only: bool = False) -> JournalStorage:
    """Open the journal of a study and limit Optuna's log to warnings. Raises DamagedFile if it is no regular file."""
    require_regular(journal)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return JournalStorage(ReadOnlyJournal(journal) if is_read_only else CheckedJournal(journal))


def _remove_incomplete_line(journal: Path) -> None:
    """Remove an incomplete last line, which a killed writer leaves and Optuna would refuse."""
    if not is_file(journal):
        return
    with journal.open("rb+") as file:
        content = file.read()
        if (end := content.rfind(b"\n") + 1) < len(content) and b"\0" not in content[end:]:
            file.truncate(end)
