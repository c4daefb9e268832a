"""Copy run folders into one tracker: what a folder has and the tracker lacks. tracking.json records what was copied.

A folder's tracking.json holds the id of its run in each tracker and the number of epochs copied, so a run that resumes
continues the same run of the tracker, and runs that were trained before a tracker was named are copied too.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from raykd.config import fingerprint
from raykd.config.codec import read_if_valid, write_record
from raykd.disk.damage import DamagedFile
from raykd.disk.lookup import is_file
from raykd.provenance import file_sha256
from raykd.store.recorded_config import RecordedRun
from raykd.store.records import TrackerEntry, TrackingRecord
from raykd.store.run_folder import RunFolder
from raykd.trackers.run_facts import Stamp, epochs_of, results_of, stamp_of, state_of, tracked_run
from raykd.trackers.tracker import Epoch, State, TrackedRun, Tracker

FILE = "tracking.json"
MAX_FAILURES = 3  # of one pass, because an unreachable server costs its timeout each time


@dataclass(frozen=True)
class Parent:
    """The parent of runs in a tracker: a family, or a search below its family. folder: of its tracking.json."""

    folder: Path
    name: str  # 'cnn', or 'cnn/search'
    kind: Literal["family", "search"] = "family"
    settings: Mapping[str, str] = field(default_factory=dict, compare=False)
    above: "Parent | None" = None

    @property
    def tracked(self) -> TrackedRun:
        family = self.name.partition("/")[0]
        return TrackedRun(self.name, self.kind, family, self.name, self.settings, time.time())


@dataclass(frozen=True)
class Watched:
    """Runs to copy. find: return the folders that exist now. are_trials: they are not evaluated on the test split."""

    parent: Parent
    find: Callable[[], Iterable[RunFolder]]
    are_trials: bool = False


class Copier:
    """Copies into `tracker`. Raises whatever the tracker raises, after the other runs of a pass."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker
        self._copied: dict[Path, Stamp] = {}  # the files of each folder when they were last copied
        self._open: set[Path] = set()  # folders whose run is open in the tracker
        self._parents: dict[Parent, str] = {}  # ids of the open parents

    def copy(self, watched: Iterable[Watched], end: State | None = None) -> None:
        """Copy what is new. end: how the command ends, after which no process trains its runs; None if it continues.

        A run that fails does not keep the others from being copied; the first error is raised at the end.
        """
        errors: list[Exception] = []
        for one in watched:
            for folder in one.find():
                try:
                    self._copy_run(folder, one, end)
                except Exception as error:  # noqa: BLE001 - of the tracker's package; raised below
                    errors.append(error)
                if len(errors) == MAX_FAILURES:
                    raise errors[0]
        if errors:
            raise errors[0]

    def _copy_run(self, folder: RunFolder, watched: Watched, end: State | None) -> None:
        stamp, is_open = stamp_of(folder), folder.path in self._open
        if self._copied.get(folder.path) == stamp and not (end and is_open):
            return
        facts = _read(folder, watched, end)
        if facts is None:
            return
        entry = self._entry(folder.path)
        is_new = len(facts.epochs) > entry.epochs or len(facts.results) != entry.results or facts.state != entry.state
        if not entry.run_id or is_new or (is_open and facts.is_over):
            entry = self._opened(folder.path, facts.run, entry, watched.parent)
            self._open.add(folder.path)
            self.tracker.log_epochs(entry.run_id, facts.epochs[entry.epochs :])
            if facts.results:
                self.tracker.log_results(entry.run_id, facts.results)
            if facts.is_over:
                self.tracker.end(entry.run_id, facts.state)
                self._open.discard(folder.path)
            state = facts.state if facts.is_over else "running"
            entry = replace(entry, epochs=max(entry.epochs, len(facts.epochs)), results=len(facts.results), state=state)
            self._write(folder.path, entry)
        self._copied[folder.path] = stamp

    def _opened(self, folder: Path, run: TrackedRun, entry: TrackerEntry, parent: Parent | None) -> TrackerEntry:
        """Create or continue the tracker's run of `folder`. A new one has no epochs; its id is written immediately."""
        parent_id = self._parent_id(parent) if parent else None
        run_id = self.tracker.open(run, entry.run_id or None, parent_id)
        if run_id == entry.run_id:
            return entry
        entry = TrackerEntry(run_id, self.tracker.store)
        self._write(folder, entry)
        return entry

    def _parent_id(self, parent: Parent) -> str:
        """Return the id of the parent's run in the tracker, which stays open until `end_parents`."""
        if parent not in self._parents:
            entry = self._opened(parent.folder, parent.tracked, self._entry(parent.folder), parent.above)
            self._parents[parent] = entry.run_id
        return self._parents[parent]

    def attach(self, parent: Parent, files: Sequence[Path], results: Mapping[str, float]) -> None:
        """Store files and values with the parent, unless the tracker has them from this or an earlier command."""
        report = fingerprint([{file.name: file_sha256(file) for file in files}, dict(results)])
        if self._entry(parent.folder).report != report:
            run_id = self._parent_id(parent)
            self.tracker.log_results(run_id, results)
            self.tracker.attach(run_id, files)
            self._write(parent.folder, replace(self._entry(parent.folder), report=report))

    def end_parents(self, state: State) -> None:
        """End the parents, those of searches before those of families."""
        for run_id in reversed(self._parents.values()):
            self.tracker.end(run_id, state)
        self._parents.clear()

    def _entry(self, folder: Path) -> TrackerEntry:
        """Return what was copied of `folder` into this store of the tracker; an empty entry if nothing was."""
        entry = _entries(folder).get(self.tracker.name)
        return entry if entry is not None and entry.store == self.tracker.store else TrackerEntry()

    def _write(self, folder: Path, entry: TrackerEntry) -> None:
        write_record(folder / FILE, TrackingRecord({**_entries(folder), self.tracker.name: entry}))


@dataclass(frozen=True)
class _Facts:
    """What a run folder has. is_over: whether nothing will be added, so that the tracker's run ends."""

    run: TrackedRun
    epochs: list[Epoch]
    results: Mapping[str, float]
    state: State
    is_over: bool


def _read(folder: RunFolder, watched: Watched, end: State | None) -> _Facts | None:
    """Return what `folder` has; None if the run has not started, or if a file is damaged, which the report reports.

    A trial that is not done when its search ends was pruned.
    """
    with suppress(DamagedFile):
        if (record := folder.record()) is None:
            return None
        keeps_last = RecordedRun(record.config).recipe.keep == "last"
        epochs, state = epochs_of(folder.history(), keeps_last), state_of(record, folder, is_last=end is not None)
        if watched.are_trials and state == "interrupted" and end == "done":
            state = "done"
        results = results_of(record, folder, bool(epochs)) if state == "done" else {}
        is_complete = watched.are_trials or is_file(folder.test)
        is_over = end is not None or state == "failed" or (state == "done" and is_complete)
        name = f"trial {folder.path.name}" if watched.are_trials else record.name
        kind = "trial" if watched.are_trials else record.stage
        return _Facts(tracked_run(record, name, kind, watched.parent.name), epochs, results, state, is_over)
    return None


def _entries(folder: Path) -> Mapping[str, TrackerEntry]:
    """Return the entries of tracking.json by the name of the tracker. A damaged file counts as missing."""
    record = read_if_valid(TrackingRecord, folder / FILE)
    return record.trackers if record else {}
