"""The run store: the folders of all runs below one results folder, and the plan of each family.

ray_results/<family>/<run>/    see run_folder.py          ray_results/<family>/plan.json
ray_results/teachers/<run>/    the teachers of all families

Imports no torch.
"""

import logging
import os
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

from filelock import FileLock

from raykd.config import to_dict
from raykd.config.codec import write_record
from raykd.disk.atomic import make_folder, temporary_beside
from raykd.disk.file_lock import holding, lock_at
from raykd.disk.mounts import LOCAL_LOCKS, mount_of
from raykd.errors import ConfigError
from raykd.provenance import command_line
from raykd.spec.stages import Stage
from raykd.store.records import CommandParts, PlanRecord, read_plan
from raykd.store.results_folder import LOGIT_CACHES, PLAN_LOCK, PLAN_WAIT_S, require_writable
from raykd.store.run_folder import RunFolder, Status

if TYPE_CHECKING:  # it loads torch
    from raykd.spec.plan import Plan, Run

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunStore:
    """All runs below one results folder."""

    results: Path

    @property
    def logit_caches(self) -> Path:
        """The folder of the logit caches, shared by all runs and searches of this store."""
        return self.results / LOGIT_CACHES

    @classmethod
    def of(cls, folder: RunFolder) -> Self:
        """Return the store of the run or trial in `folder`."""
        return cls(folder.results)

    def folder(self, run: "Run") -> RunFolder:
        return RunFolder(self.results / run.family / run.name)

    def status(self, run: "Run") -> Status:
        """Return the status of `run`. Raises DamagedFile if its folder holds the run.json of another run."""
        return self.folder(run).status(run.fingerprint)

    def require_writable(self) -> None:
        """Raise ConfigError if the results folder cannot be written or made. Changes nothing."""
        folder = self.results
        while not os.access(folder, os.F_OK):  # Path.exists raises if a parent folder may not be entered
            folder = folder.parent
        require_writable(folder, self.results)

    def make_folder(self) -> None:
        """Make the results folder and check that it has file locks, which keep two jobs from writing one run.

        Raises ConfigError if either fails, and logs a warning if locks may exclude the processes of one node only.
        """
        mount = mount_of(self.results)
        if mount is not None and mount.has_local_locks:
            raise ConfigError(
                f"results folder '{self.results}' cannot be used: {mount.point} is Lustre with locks of one node only "
                "(localflock), so that two jobs could write one run; name a folder on another filesystem with "
                "--results, or ask the administrators to mount it with -o flock"
            )
        if mount is not None and mount.may_have_local_locks:
            _log.warning("%s", LOCAL_LOCKS.format(folder=self.results, point=mount.point))
        path = temporary_beside(self.results / "lock")
        try:
            self.results.mkdir(parents=True, exist_ok=True)
            with lock_at(path).acquire(timeout=0):
                pass
        except (OSError, NotImplementedError) as error:
            raise ConfigError(
                f"results folder '{self.results}' cannot be used ({error}); name another with --results. "
                "It must be writable and have file locks (Lustre: mounted with -o flock)"
            ) from None
        finally:
            with suppress(OSError):  # the folder may not exist
                path.unlink(missing_ok=True)

    def planning(self) -> AbstractContextManager[None]:
        """Keep runs from being removed inside the block, in which a command finds done runs and writes its plan.

        Afterward the plan protects them. The lock is reentrant for this object. Raises RunFailed if another process
        holds the lock for PLAN_WAIT_S.
        """
        return holding(self._plan_lock, PLAN_WAIT_S)

    @cached_property
    def _plan_lock(self) -> FileLock:
        return lock_at(self.results / PLAN_LOCK)

    def write_plan(self, plan: "Plan", command_parts: CommandParts | None = None) -> set[str]:
        """Write the runs of the family's report to <family>/plan.json. Stages that are not planned are kept.

        command_parts: those of the command line, if it is one of raykd's. Returns the names of the runs that this
        removes from the report.
        """
        path = self.results / plan.experiment.family / "plan.json"
        planned: dict[Stage, tuple[str, ...]] = {stage: tuple(names) for stage, names in plan.stages.items() if names}
        make_folder(path.parent)
        # Stages may be submitted concurrently.
        with self.planning():
            before = read_plan(path)
            comparison = {method: tuple(names) for method, names in plan.comparison.items()}
            if not any(comparison.values()):  # only stages that precede the comparison are planned
                comparison = before.comparison if plan.experiment.compare else {}
            after = PlanRecord(
                plan.experiment.family,
                {**before.stages, **planned},
                comparison,
                to_dict(plan.experiment, results_only=True),
                command_line(),
                command_parts,
            )
            write_record(path, after)
        return before.names - after.names
