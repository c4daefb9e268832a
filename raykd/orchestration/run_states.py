"""Where the runs of a command stand, read once: reading a status hashes the run's weights and tries the run's lock."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Self

from raykd.disk.lookup import is_file
from raykd.spec.plan import Run
from raykd.store.run_folder import Status
from raykd.store.run_store import RunStore


@dataclass(frozen=True)
class RunStates:
    """The status of each run by its name, and the teacher source ('live' or 'cache') of each partly trained run."""

    statuses: Mapping[str, Status]
    teacher_sources: Mapping[str, str]

    @classmethod
    def read(cls, runs: Iterable[Run], store: RunStore) -> Self:
        """Read the states of `runs`. Raises DamagedFile for a folder that holds another run."""
        unique = {run.name: run for run in runs}
        return cls(
            {name: store.status(run) for name, run in unique.items()},
            {name: store.folder(run).teacher_source_at_start for name, run in unique.items()},
        )

    def with_done(self, run: Run) -> Self:
        """Return the states after `run` was restored."""
        return replace(self, statuses={**self.statuses, run.name: "done"})

    def without_removed(self, runs: Iterable[Run], store: RunStore) -> Self:
        """Return the states after some of the done `runs` may have been removed since the states were read."""
        removed = {run.name for run in runs if run.name in self.trained and not is_file(store.folder(run).best)}
        return replace(self, statuses={**self.statuses, **dict.fromkeys(removed, "not started")})

    @property
    def trained(self) -> set[str]:
        """The names of the runs that are done."""
        return {name for name, status in self.statuses.items() if status == "done"}

    @property
    def started_live(self) -> set[str]:
        """The names of the runs that started with a live teacher. They keep it, and wait for no logit cache."""
        return {name for name, source in self.teacher_sources.items() if source == "live"}

    @property
    def in_progress_on_cache(self) -> set[str]:
        """The names of the partly trained runs that started with a logit cache. They keep it."""
        return {name for name, source in self.teacher_sources.items() if source == "cache"} - self.trained
