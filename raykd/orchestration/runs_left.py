"""The runs that a command has left, as jobs of the queue: which to train, and which to evaluate on the test split."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from raykd.orchestration.parallel_runs import Slots
from raykd.orchestration.run_queue import Job, JobStatus, State, plan_jobs
from raykd.orchestration.run_states import RunStates
from raykd.spec.plan import Run
from raykd.store.run_store import RunStore
from raykd.training.final_evaluation import is_tested
from raykd.training.teacher.choose import PlannedCache, split_for_slots


@dataclass(frozen=True)
class RunsLeft:
    """`runs` with their `states` at the start of the command.

    caches: the logit caches that runs read; other distilled runs have a live teacher.
    choose: returns which runs to evaluate; its argument has the statuses of the training. Runs that are not trained yet
    are trained first, and runs that failed are left out. None evaluates all `runs`, each as soon as it is trained.
    """

    runs: Sequence[Run]
    states: RunStates
    caches: Sequence[PlannedCache]
    store: RunStore
    choose: Callable[[Sequence[JobStatus]], Sequence[Run]] | None = None

    @property
    def has_final_jobs(self) -> bool:
        """Whether `final_jobs` is to be called once all other jobs have ended."""
        return self.choose is not None

    def jobs(self, slots: Slots | None = None) -> list[Job]:
        """Return the jobs left, with the logit caches in as many parts as `slots` fill."""
        caches = self.caches
        if slots is not None:
            caches = [split_for_slots(cache, slots.gpus, slots.count) for cache in caches]
        return plan_jobs(self.runs, self.states.trained, self._evaluated, caches, self.states.started_live)

    def final_jobs(self, statuses: Sequence[JobStatus]) -> list[Job]:
        """Return the jobs of the chosen runs, perhaps none. statuses: of all other jobs."""
        assert self.choose is not None
        failed = {status.job.run.name for status in statuses if status.state is not State.DONE}
        chosen = [run for run in self.choose(statuses) if run.name not in failed]
        tested = {run.name for run in chosen if is_tested(self.store.folder(run))}
        return plan_jobs(chosen, RunStates.read(chosen, self.store).trained, tested)

    @cached_property
    def _evaluated(self) -> set[str]:
        """The names of the runs that `jobs` does not evaluate: tested before, or left to `final_jobs`."""
        trained = self.states.trained
        return {
            run.name
            for run in self.runs
            if self.has_final_jobs or (run.name in trained and is_tested(self.store.folder(run)))
        }
