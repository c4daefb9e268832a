"""The run store: every run's folder under one results folder, and which of them a report is about.

ray_results/<family>/<run>/  see run_folder.py          ray_results/<family>/plan.json
"""

import os
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from raykd.atomic import make_folder
from raykd.config import to_dict
from raykd.errors import ConfigError
from raykd.spec.plan import Plan, Run
from raykd.spec.stages import STAGES, Stage
from raykd.store.codec import write_record
from raykd.store.damage import damaged
from raykd.store.records import PlanRecord, read_plan
from raykd.store.run_folder import RunFolder, Status, lock_at

PLAN_LOCK_S = 30.0  # held for one small write


@dataclass(frozen=True)
class RunStore:
    """All runs under one results folder."""

    results: Path

    @property
    def logit_caches(self) -> Path:
        """Return the folder of the logit caches, which all runs and searches on these results share."""
        return self.results / ".logit_caches"

    def folder(self, run: Run) -> RunFolder:
        return RunFolder(self.results / run.family / run.name)

    def status(self, run: Run) -> Status:
        """Return how far `run` is. Raises DamagedFile where its folder holds the run.json of another run."""
        folder = self.folder(run)
        record = folder.record()
        if record is not None and record.fingerprint != run.fingerprint:
            why = f"it is of another run: its fingerprint starts with {record.fingerprint[:12]}"
            raise damaged(folder.record_path, why)
        return folder.status()

    def require_writable(self) -> None:
        """Raise ConfigError now rather than hours later; changes nothing."""
        folder = self.results
        while not os.access(folder, os.F_OK):  # Path.exists raises where a folder above may not be entered
            folder = folder.parent
        if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
            raise ConfigError(
                f"results folder '{self.results}' cannot be written: '{folder}' is no folder of yours; "
                "name another with --results"
            )

    def make_folder(self) -> None:
        """Make the results folder and try a lock there, without which two jobs would write one run.

        Raises ConfigError where either cannot be had.
        """
        path = self.results / f".lock-{uuid.uuid4().hex[:12]}"
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
            with suppress(OSError):  # of a folder that could not be made
                path.unlink(missing_ok=True)

    def write_plan(self, plan: Plan) -> set[str]:
        """Write to <family>/plan.json which runs the family's report is about. Stages that are not planned are kept.

        Returns the names of runs that the report was about before and is not any more.
        """
        path = self.results / plan.experiment.family / "plan.json"
        planned: dict[Stage, tuple[str, ...]] = {
            stage: tuple(plan.stages[stage]) for stage in STAGES if plan.stages.get(stage)
        }
        make_folder(path.parent)
        # Stages may be submitted side by side.
        with lock_at(path.with_name(".plan.lock")).acquire(timeout=PLAN_LOCK_S):
            before = read_plan(path)
            comparison = {method: tuple(names) for method, names in plan.comparison.items()}
            if not any(comparison.values()):  # of stages that precede it
                comparison = before.comparison if plan.experiment.compare else {}
            after = PlanRecord(
                plan.experiment.family,
                {**before.stages, **planned},
                comparison,
                to_dict(plan.experiment, results_only=True),
            )
            write_record(path, after)
        return before.names - after.names
