"""The runs and searches that a results folder has, whatever configuration they are from, for `raykd runs`.

    read_catalog(Path("ray_results")).runs      a CatalogRun for each run folder, planned or not

A damaged file of one run does not hide the others: that run has the status 'damaged'. Imports no torch.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Literal

from raykd.config import from_dict
from raykd.config.codec import read_if_valid, read_record
from raykd.disk.lookup import find, is_folder
from raykd.errors import ConfigError
from raykd.spec.search import Search
from raykd.spec.stages import TRIALS, Stage
from raykd.store.records import ConfirmationRecord, Metrics, PlanRecord, RunRecord, TagsRecord, TrialState, read_plan
from raykd.store.results_folder import disk_bytes, require_readable, search_paths
from raykd.store.run_differences import changed_fields
from raykd.store.run_folder import RunFolder, Status
from raykd.store.study import SearchFolder, SearchTrial, num_ended


@dataclass(frozen=True)
class CatalogRun:
    """One run folder. is_planned: whether a family's plan names it. search, trial: of a search's trial only.

    changes: the fields that differ from the family's plan, {path for --set: value as text}; {} for planned runs.
    """

    folder: RunFolder
    record: RunRecord | None  # None if run.json is damaged
    status: Status | Literal["pruned"]  # pruned: a trial that the search stopped early
    is_planned: bool
    changes: Mapping[str, str] = field(default_factory=dict)
    search: str = ""
    trial: int | None = None

    @property
    def family(self) -> str:
        return self.folder.family

    @property
    def name(self) -> str:
        """The name of the folder; of a trial, '<search>/<number>'."""
        name = self.folder.path.name
        return f"{self.search}/{name}" if self.search else name

    @property
    def full_name(self) -> str:
        return f"{self.family}/{self.name}"

    @property
    def stage(self) -> Stage | None:
        return self.record.stage if self.record else None

    @cached_property
    def tags(self) -> tuple[str, ...]:
        """The run's tags; () if their file is damaged, which `raykd runs tag` reports."""
        try:
            return tags_of(self.folder)
        except ConfigError:
            return ()

    @cached_property
    def size_bytes(self) -> int:
        """The size of the folder on disk."""
        return disk_bytes(self.folder.path)

    @property
    def val_top1(self) -> float | None:
        """Validation top-1 of the best epoch in percent, once the run is done."""
        return self.record.best.val_top1 if self.record and self.record.best else None

    @cached_property
    def test_top1(self) -> float | None:
        """Test top-1 of the best weights in percent, once they are evaluated."""
        tested = read_if_valid(Metrics, self.folder.test)
        is_of_weights = tested and self.record and tested.weights_sha256 == self.record.weights_sha256
        return tested.top1 if tested and is_of_weights else None

    @cached_property
    def changed_at(self) -> float:
        """When the run ended, or last wrote a file; in seconds since 1970."""
        if self.record and self.record.ended:
            return datetime.fromisoformat(self.record.ended).timestamp()
        files = (self.folder.record_path, self.folder.history_path, self.folder.checkpoint)
        times = [0.0]
        for path in files:
            with suppress(FileNotFoundError):  # not written yet, or removed meanwhile, as a checkpoint at the run's end
                times.append(path.stat().st_mtime)
        return max(times)


@dataclass(frozen=True)
class CatalogSearch:
    """One search. trials: its run folders. is_unfinished: whether its command would train more.

    confirming: names of the family's runs that confirm its configurations and still exist.
    """

    folder: SearchFolder
    states: tuple[SearchTrial, ...]
    trials: tuple[CatalogRun, ...]
    is_unfinished: bool
    cache: str | None = None  # name of the logit cache that the trials read
    confirming: tuple[str, ...] = ()

    @property
    def family(self) -> str:
        return self.folder.path.parent.name

    @property
    def name(self) -> str:
        return self.folder.path.name

    @property
    def full_name(self) -> str:
        return self.folder.full_name


@dataclass(frozen=True)
class Catalog:
    """All runs and searches of a results folder, and the plan of each family."""

    results: Path
    runs: tuple[CatalogRun, ...]
    searches: tuple[CatalogSearch, ...]
    plans: Mapping[str, PlanRecord]

    @property
    def all_runs(self) -> tuple[CatalogRun, ...]:
        """The runs, and the trials of the searches."""
        return (*self.runs, *(trial for search in self.searches for trial in search.trials))


def read_catalog(results: Path) -> Catalog:
    """Read all runs and searches below `results`. Raises ConfigError if it cannot be read, or a plan is damaged."""
    require_readable(results)
    families = [path for path in sorted(results.iterdir()) if is_folder(path) and not path.name.startswith(".")]
    plans = {family.name: read_plan(family / "plan.json") for family in families}
    planned = {name for plan in plans.values() for name in plan.names}
    folders = [folder for family in families for folder in _below(family)]
    records = {folder.path: folder.record_if_valid() for folder in folders}
    found = {record.name: record for record in records.values() if record is not None}
    runs = []
    for folder in folders:
        record, is_planned = records[folder.path], folder.path.name in planned
        changes = changed_fields(record, plans, found) if record and not is_planned else {}
        runs.append(CatalogRun(folder, record, _status_of(folder), is_planned, changes))
    return Catalog(results, tuple(runs), tuple(map(_read_search, search_paths(results))), plans)


def _below(folder: Path) -> Iterator[RunFolder]:
    """Yield the run folders in `folder`, without those that are being removed."""
    for path in find(folder, "*/run.json"):
        if not path.parent.name.startswith("."):
            yield RunFolder(path.parent)


def _status_of(folder: RunFolder) -> Status:
    try:
        return folder.status(reads_weights=False)
    except ConfigError:
        return "damaged"
    except FileNotFoundError:  # another process removes the run
        return "not started"


def tags_of(folder: RunFolder) -> tuple[str, ...]:
    """Return the tags of a run, sorted. Raises DamagedFile."""
    record = read_record(TagsRecord, folder.tags_path)
    return record.tags if record else ()


def _read_search(path: Path) -> CatalogSearch:
    """Read a search. One with damaged files counts as unfinished, so that what it needs is kept."""
    folder = SearchFolder(path)
    trials = [
        CatalogRun(run, run.record_if_valid(), _status_of(run), False, search=path.name, trial=int(run.path.name))
        for run in _below(path / TRIALS)
        if run.path.name.isdecimal()
    ]
    try:
        record, states = folder.require_record(), tuple(folder.trials())
        search = from_dict(Search, dict(record.search))
        confirmed = read_record(ConfirmationRecord, folder.confirmed)
    except ConfigError:
        return CatalogSearch(folder, (), tuple(trials), True)
    recorded: dict[int | None, TrialState] = {state.number: state.state for state in states}
    trials = [_as_ended(trial, recorded) for trial in trials]
    is_done = num_ended(states) >= search.num_trials and (not search.confirm or confirmed is not None)
    rows = (*confirmed.candidates, confirmed.baseline) if confirmed else ()
    names = dict.fromkeys(name for row in rows for name in row.runs if is_folder(path.parent / name))
    return CatalogSearch(folder, states, tuple(trials), not is_done, record.cache, tuple(names))


def _as_ended(trial: CatalogRun, states: Mapping[int | None, TrialState]) -> CatalogRun:
    """Return a trial with the status that the study records, if it ended before its last epoch.

    The run.json of such a trial has the status 'running'. states: by the trials' numbers.
    """
    state = states.get(trial.trial)
    return replace(trial, status=state) if trial.status == "interrupted" and state in ("pruned", "failed") else trial
