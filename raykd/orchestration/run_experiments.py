"""Run experiments: train on Ray, evaluate and report. One call, one exit code."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

from raykd.cluster.progress_record import note_results
from raykd.data.load import keep_decoded
from raykd.data.types import Dataset
from raykd.errors import Interrupted, RunFailed, plural
from raykd.orchestration.command import Command
from raykd.orchestration.command_trackers import attach_report, parent_of, tracking_of, watch_runs
from raykd.orchestration.data_storage import with_packs
from raykd.orchestration.experiment_plans import (
    checked_plan,
    data_lines,
    plans_of,
    require_together,
    teacher_choice_of,
    warning_lines,
)
from raykd.orchestration.options import Options, data_key, dataset_of
from raykd.orchestration.parallel_runs import Slots, require_room
from raykd.orchestration.progress import Progress, families_of, titled
from raykd.orchestration.reporting import write_report
from raykd.orchestration.run_queue import Job, JobStatus, State, max_concurrent
from raykd.orchestration.run_states import RunStates
from raykd.orchestration.runs_left import RunsLeft
from raykd.orchestration.session import private_node, ray_session
from raykd.orchestration.stop_signals import stop_signals
from raykd.spec.experiment import Data, Experiment, Workers
from raykd.spec.plan import Plan, Run
from raykd.store.migration import require_migrated
from raykd.store.results_folder import in_use
from raykd.store.run_store import RunStore
from raykd.trackers.tracking import Tracking
from raykd.training.compute import device_for, require_precision
from raykd.training.repair import repair_weights
from raykd.training.run_record import record_failure
from raykd.training.teacher.choose import PlannedCache, merge_caches
from raykd.training.teacher.import_check import describe_import
from raykd.training.teacher.imported import read_import_check, require_import_fits
from raykd.training.teacher.load import is_full

if TYPE_CHECKING:  # it loads matplotlib
    from raykd.report.report import Report


def prepared_options(experiments: Sequence[Experiment], command: Command) -> Options:
    """Return the command's options with what the experiments share: packs of their data, loaders, trackers, callbacks.

    Missing packs are written, after all checks of the experiments that need no decoded image. Raises ConfigError if the
    package of a tracker is missing.
    """
    require_together(experiments)
    used, first = [experiment.data for experiment in experiments], experiments[0]
    options = replace(
        command.options,
        loaders=first.workers.loaders,
        trackers=first.tracker,
        callbacks=first.callbacks,
        keep_checkpoints=first.keep_checkpoints,
    )
    require_migrated(options.results)

    def check(data: Data, undecoded: Dataset) -> None:
        """Check the experiments on `data`."""
        for experiment in experiments:
            if data_key(experiment.data) == data_key(data):
                checked_plan(experiment, undecoded, options)

    return with_packs(used, options, command.log, command.console, check)


def run_experiments(experiments: Sequence[Experiment], command: Command, tracking: Tracking | None = None) -> "Report":
    """Train and evaluate every run of the experiments, and write and return the report.

    tracking: the trackers of a command that runs more than this; None for those of the experiments.

    Raises Interrupted, or RunFailed with the jobs that failed.
    """
    with _trained(experiments, command, tracking) as (_, plans, tracking):
        report = write_report(command.options.results, command.console)
        attach_report(tracking, plans, command.options.results)
    return report


def train_experiments(
    experiments: Sequence[Experiment], command: Command, tracking: Tracking | None = None
) -> list[JobStatus]:
    """Train and evaluate every run of the experiments without a report. Return how each job ended.

    tracking, and what is raised: as for `run_experiments`.
    """
    with _trained(experiments, command, tracking) as (statuses, _, _):
        return statuses


@contextmanager
def _trained(
    experiments: Sequence[Experiment], command: Command, tracking: Tracking | None
) -> Iterator[tuple[list[JobStatus], list[Plan], Tracking]]:
    """Plan, train and evaluate the experiments, and yield how each job ended, the plans and the trackers.

    The block runs before the trackers are closed. At its end, failed and unfinished jobs are raised as errors.
    """
    options, workers = prepared_options(experiments, command), experiments[0].workers
    command = replace(command, options=options)
    plans = plans_of(experiments, options)
    states = restore_damaged(_runs_of(plans), command)
    if any(run.name not in states.trained for run in _runs_of(plans)):
        require_room(workers, private_node())
    options.store.make_folder()
    note_results(options.results)
    with in_use(options.results):
        states = _write_plans(plans, states, command)
        for _, dataset in plans:
            keep_decoded(dataset, options.decoded)  # the workers read it there
        _log_plans(plans, states, command)
        caches = _plan_caches(plans, states, command)
        trackers = nullcontext(tracking) if tracking is not None else tracking_of(command)
        with stop_signals(command.console) as stopped, trackers as tracking:
            for plan, _ in plans:
                watch_runs(tracking, parent_of(plan, options.results), plan.runs, options.store)
            left = RunsLeft(_runs_of(plans), states, caches, options.store)
            statuses = run_to_completion(left, workers, command, stopped.is_set)
            try:
                yield statuses, [plan for plan, _ in plans], tracking
            finally:
                raise_for(statuses)  # the failed runs explain more than an error of the report


def _runs_of(plans: Sequence[tuple[Plan, Dataset]]) -> list[Run]:
    """Return each run once, since families may share a teacher."""
    return [*{run.name: run for plan, _ in plans for run in plan.runs}.values()]


def _write_plans(plans: Sequence[tuple[Plan, Dataset]], states: RunStates, command: Command) -> RunStates:
    """Write the plans, and return the states without runs that `raykd runs rm` removed before the plans named them."""
    store = command.options.store  # one object, whose lock is reentrant
    with store.planning():
        states = states.without_removed(_runs_of(plans), store)
        for plan, _ in plans:
            family = plan.experiment.family
            if replaced := store.write_plan(plan, command.options.command_parts.get(family)):
                command.log(f"the report of {family} has a new plan; runs of the old plan are kept: {len(replaced)}")
    return states


def _log_plans(plans: Sequence[tuple[Plan, Dataset]], states: RunStates, command: Command) -> None:
    """Log the number of runs, their data, warnings, and how the weights of imported teachers fit."""
    options, runs = command.options, _runs_of(plans)
    command.log(f"{plural(len(runs), 'run')}, {len(states.trained)} of them done before; results in {options.results}")
    for line in dict.fromkeys(line for plan, data in plans for line in data_lines(plan, data)):
        command.log(line)
    for plan, _ in plans:
        family = plan.experiment.family
        for line in warning_lines(plan, options.command_parts.get(family)):
            command.log(f"{family}: {line}" if len(plans) > 1 else line)
    for run in runs:
        if run.imported is not None and (check := read_import_check(options.store.folder(run))):
            command.log(f"{run.name}: {describe_import(check)}")


def _plan_caches(plans: Sequence[tuple[Plan, Dataset]], states: RunStates, command: Command) -> list[PlannedCache]:
    """Choose the teacher source of each plan, log why, and return the logit caches that the runs will read."""
    caches = []
    for plan, dataset in plans:
        if (choice := teacher_choice_of(plan, dataset, states, command.options)) is not None:
            command.log(f"teacher of {plan.experiment.family}: {choice.reason}")
            caches += choice.caches
    datasets = {plan.experiment.family: dataset for plan, dataset in plans}

    def is_filled(cache: PlannedCache) -> bool:
        return is_full(cache, command.options.store, datasets[min(cache.families)], command.log)

    return [as_filled(cache) if is_filled(cache) else cache for cache in merge_caches(caches)]


def as_filled(cache: PlannedCache) -> PlannedCache:
    """Return `cache` without parts, so that no job fills it."""
    return replace(cache, num_parts=0)


def restore_damaged(runs: Sequence[Run], command: Command) -> RunStates:
    """Restore the damaged or missing best weights of finished `runs`, and return the states afterward.

    Imported weights are imported again instead. Raises DamagedFile if weights cannot be restored: a finished run is
    trained again only after the user has moved its folder away.
    """
    options, states = command.options, RunStates.read(runs, command.options.store)
    for run in runs:
        if states.statuses[run.name] == "damaged" and run.imported is None:
            folder = options.store.folder(run)
            damage = folder.weights_damage()
            repair_weights(run, folder, dataset_of(run.data, options))
            command.log(f"'{folder.best}' was damaged ({damage}); it is restored from the run's checkpoint")
            states = states.with_done(run)
    return states


def run_to_completion(
    left: RunsLeft, workers: Workers, command: Command, should_stop: Callable[[], bool]
) -> list[JobStatus]:
    """Train the runs that are left, and evaluate them on the test split. Return how each job ended."""
    statuses = _run(left, workers, command, should_stop) if left.jobs() else []
    _record_failures(statuses, left.store)
    for run in left.runs:
        require_import_fits(run, left.store.folder(run))
    return statuses


def _run(left: RunsLeft, workers: Workers, command: Command, should_stop: Callable[[], bool]) -> list[JobStatus]:
    """Start Ray, divide the cluster into slots and do the jobs there."""
    with ray_session() as dashboard:
        jobs = left.jobs()
        if should_stop():  # a signal came while Ray started
            return [JobStatus(job) for job in jobs]
        from raykd.orchestration.prometheus import scrape_targets
        from raykd.orchestration.trainers import run_jobs, slots_of

        slots = slots_of(workers, sum(job.kind != "evaluate" for job in jobs), max_concurrent(jobs))
        _require_precisions(jobs, slots)
        command.log(f"{slots}; dashboard {dashboard or 'off'}")
        command.log("starting workers, which takes 10 to 20 seconds")
        with scrape_targets(command.options.results), Progress(command.console) as progress:
            return run_jobs(left, slots, command.options, progress, should_stop)


def _require_precisions(jobs: Sequence[Job], slots: Slots) -> None:
    """Raise ConfigError if a run without a GPU requires one for its precision."""
    for run in [job.run for job in jobs if job.kind == "train" and not slots.gpus]:
        require_precision(run.recipe.precision, run.role, device_for(slots.gpus))


def _record_failures(statuses: list[JobStatus], store: RunStore) -> None:
    """Record in run.json why runs failed, as the workers could not if they died."""
    for status in statuses:
        if status.job.kind == "train" and status.state is State.FAILED:
            reason = (status.reason.splitlines() or ["no reason given"])[0]
            record_failure(store.folder(status.job.run), reason, status.failure or "outside")


def raise_for(statuses: list[JobStatus]) -> None:
    """Raise RunFailed for jobs that failed, or Interrupted for jobs that are left."""
    if failed := [status for status in statuses if status.state is State.FAILED]:
        families = families_of(statuses)
        jobs = [status.job for status in failed]
        names = [job.name.replace(job.run.name, titled(job.run, families)) for job in jobs]
        lines = "\n".join(f"  {name}: {status.reason}" for name, status in zip(names, failed, strict=True))
        raise RunFailed(f"{len(failed)} of {plural(len(statuses), 'job')} failed; the others are kept:\n{lines}")
    if any(status.state in (State.STOPPED, State.WAITING, State.RUNNING) for status in statuses):
        raise Interrupted("stopped; every run is saved; rerun the same command to resume")
