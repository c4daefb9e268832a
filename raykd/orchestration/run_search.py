"""Run a search from start to end: train the teacher, run the trials, confirm the best configurations, and report.

The search's folder is <results>/<family>/<name>/, see study.py. The runs that confirm configurations are in the
family's folder, and those of the winner are the distilled runs of the report.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raykd.config import to_dict
from raykd.data.types import Dataset
from raykd.errors import ConfigError, Interrupted, RunFailed, plural
from raykd.orchestration.command import Command, SearchCommand
from raykd.orchestration.command_trackers import tracking_of, watch_runs, watch_search
from raykd.orchestration.confirm import confirm, is_confirmed, winner_of
from raykd.orchestration.experiment_plans import plan_of, teacher_choice_of
from raykd.orchestration.parallel_runs import Slots, require_room
from raykd.orchestration.run_experiments import as_filled, prepared_options, run_experiments, train_experiments
from raykd.orchestration.run_queue import JobStatus
from raykd.orchestration.run_states import RunStates
from raykd.orchestration.session import private_node, ray_session
from raykd.orchestration.space_check import check_search, early_comparison
from raykd.orchestration.stop_signals import stop_signals
from raykd.provenance import hardware, source, versions
from raykd.report.search_wording import trials_in_words
from raykd.spec.experiment import Experiment
from raykd.spec.plan import Plan
from raykd.spec.search import Search
from raykd.store.records import SearchRecord
from raykd.store.results_folder import in_use
from raykd.store.run_folder import now
from raykd.store.study import SearchStudy, SearchTrial, best_first, num_ended
from raykd.trackers.tracking import Tracking
from raykd.training.compute import device_for, require_precision
from raykd.training.teacher.choose import PlannedCache, teacher_identity

if TYPE_CHECKING:  # it loads matplotlib
    from raykd.report.report import Report

PRECISION = "student.precision"


def search(experiment: Experiment, command: Command) -> "Report":
    """Search, confirm and report; resume where an earlier command stopped. Return the report.

    Raises ConfigError for a space that cannot be searched and for another search of the same name, Interrupted after a
    signal, and RunFailed if every trial or a run that confirms a configuration failed.
    """
    options = prepared_options([experiment], command)
    command = SearchCommand(options, command.console, experiment)
    plan, dataset = plan_of(experiment, options)  # finds all configuration errors before Ray starts
    identity = check_search(plan, dataset, options)
    is_done = num_ended(command.folder.trials()) >= command.search.num_trials and is_confirmed(command)
    if not is_done:
        require_room(experiment.workers, private_node())
    options.store.make_folder()
    session = nullcontext() if is_done else ray_session()
    with in_use(options.results), session, tracking_of(command) as tracking:
        if is_done:
            watch_search(tracking, command)  # trackers may lack its trials
            winner = _earlier_winner(command)
        else:
            winner = _find_winner(command, plan, dataset, identity, tracking)
        return run_experiments([experiment.with_configuration(winner)], command, tracking)


def _earlier_winner(command: SearchCommand) -> dict[str, Any]:
    """Return the winning configuration of a search that an earlier command finished."""
    search, folder = command.search, command.folder
    command.log(f"{plural(search.num_trials, 'trial')} done before, in {folder.path}")
    return winner_of(folder) if search.confirm else dict(_best(folder.trials(), search)[0].configuration)


def _find_winner(
    command: SearchCommand, plan: Plan, dataset: Dataset, identity: dict[str, Any], tracking: Tracking
) -> dict[str, Any]:
    """Finish the search and its confirmation, and return the winning configuration."""
    search, folder, options = command.search, command.folder, command.options
    _require_precisions(command, _slots(command, num_concurrent=1))
    only_teacher, store = replace(options, stages=("teacher",)), options.store
    ended = train_experiments([command.experiment], replace(command, options=only_teacher), tracking)
    choice = teacher_choice_of(plan, dataset, RunStates.read(plan.runs, store), options)
    cache = as_filled(choice.cache) if choice and choice.cache else None  # it was filled after the teacher's training
    teachers = [store.folder(run) for run in plan.runs if run.stage == "teacher"]
    cache_name = cache.key(dataset, teacher_identity(teachers)).name if cache else None
    with folder.lock(wait_s=1), stop_signals(command.console) as stopped:
        parent = watch_search(tracking, command)
        _write_record(command, identity, ended, cache_name)
        study = SearchStudy(folder, search, command.default_configuration)
        _run_all_trials(command, study, cache, stopped.is_set)
        best = _best(study.trials(), search)
        if stopped.is_set():
            raise Interrupted("search interrupted after its trials; rerun the same command to resume")
        command.log(f"{plural(len(study.trials()), 'trial')} in {folder.path}")
        return confirm(command, best, cache, stopped.is_set, partial(watch_runs, tracking, parent, store=store))


def _slots(command: SearchCommand, num_concurrent: int) -> Slots:
    """Divide the nodes into slots for trials. Ray must have started.

    All trials have `workers.count` workers, so that they differ only in their hyperparameters. Raises ConfigError if
    the nodes have no room for as many, even if `workers.min_count` would allow fewer.
    """
    from raykd.orchestration.trainers import slots_of

    workers = command.experiment.workers
    try:
        return slots_of(replace(workers, min_count=None), num_concurrent, num_concurrent)
    except ConfigError as error:
        why = "; workers.min_count does not apply to the trials of a search" if workers.min_count else ""
        raise ConfigError(f"{error}{why}") from None


def _require_precisions(command: SearchCommand, slots: Slots) -> None:
    """Raise ConfigError if trials have no GPU and the experiment or its search space has a precision that requires one.

    It is checked before the teacher is trained.
    """
    if slots.gpus:
        return
    device = device_for(slots.gpus)
    values = command.search.space.get(PRECISION)
    if values is None:
        require_precision(command.experiment.student.precision, "student", device)
        return
    for value in values.probe_values:
        try:
            require_precision(str(value), "student", device)
        except ConfigError as error:
            raise ConfigError(f"search.space: {PRECISION} in {values} cannot be {value}: {error}") from None


def _run_all_trials(
    command: SearchCommand, study: SearchStudy, cache: PlannedCache | None, should_stop: Callable[[], bool]
) -> None:
    """Run rounds of trials until all have ended or a round ends none.

    A round can leave trials unfinished: Tune gives up a trial if no worker is free in time, and a full disk or a locked
    folder is not a trial's result. Raises RunFailed with such causes if a round ended no trial.
    """
    before, outside, num_trials = -1, {}, command.search.num_trials
    while before < (ended := num_ended(study.trials())) < num_trials and not should_stop():
        before = ended
        outside = _run_round(command, study, cache, should_stop)
    if outside and ended < num_trials and not should_stop():
        (number, reason), *others = outside.items()
        more = f" (and {plural(len(others), 'more trial')})" if others else ""
        raise RunFailed(
            f"{ended} of {num_trials} trials ended; trial {number} cannot be trained{more}: {reason}; "
            "remove the cause, and rerun the same command to resume"
        )


def _run_round(
    command: SearchCommand, study: SearchStudy, cache: PlannedCache | None, should_stop: Callable[[], bool]
) -> dict[int, str]:
    """Run each trial that is left once, and return what `run_trials` returns."""
    from ray import tune

    from raykd.orchestration.prometheus import scrape_targets
    from raykd.orchestration.trial import TrialContext, resources_of, run_trial, train_variables
    from raykd.orchestration.tuner import run_trials

    search, folder, options = command.search, command.folder, command.options
    left = search.num_trials - num_ended(study.trials())
    num_concurrent = min(left, search.max_concurrent or left)
    try:
        slots = _slots(command, num_concurrent)
    except ConfigError as error:  # there was room when the command started
        raise Interrupted(f"nodes are lost: {error}; rerun the same command on enough nodes to resume") from None
    command.log(f"{trials_in_words(search)}; {plural(left, 'trial')} left; {slots}")
    if warning := early_comparison(search, command.experiment.student):
        command.log(f"warning: {warning}")
    command.log("starting workers, which takes 5 to 10 seconds")
    folder.update(cpus=slots.cpus * slots.workers, gpus=slots.gpus * slots.workers)
    # Tune runs a trial in another working directory, so every path must be absolute.
    context = command.experiment, options.with_absolute_paths(), folder.path.absolute(), slots, cache

    def make_trainable(flag: Any, storage: Path) -> Any:
        shared = TrialContext(*context, flag, Path.cwd(), storage, train_variables(os.environ))
        return tune.with_resources(tune.with_parameters(run_trial, shared=shared), resources_of(slots))

    with scrape_targets(options.results):
        return run_trials(command, study, make_trainable, slots, should_stop)


def _best(trials: Sequence[SearchTrial], search: Search) -> list[SearchTrial]:
    """Return the completed trials, best first; with several metrics, only those on the Pareto front.

    Raises Interrupted if trials are left, and RunFailed if none was completed.
    """
    ended = num_ended(trials)
    if ended < search.num_trials:
        raise Interrupted(
            f"search interrupted after {ended} of {plural(search.num_trials, 'trial')}; "
            "rerun the same command to resume"
        )
    best = best_first(trials, search)
    if not best:
        reasons = [trial.reason for trial in trials if trial.reason]
        failed = f"; the first failed with: {reasons[0]}" if reasons else ""
        raise RunFailed(f"none of {plural(len(trials), 'trial')} was completed{failed}")
    return best


def _write_record(
    command: SearchCommand, identity: dict[str, Any], teachers: Sequence[JobStatus], cache: str | None
) -> None:
    """Write search.json for a new or resumed search.

    teachers: how their jobs ended. cache: folder name of the logit cache that the trials read, None for a live teacher.
    """
    experiment, earlier = command.experiment, command.folder.record()
    filled = [status.times for status in teachers if status.job.kind == "fill" and "ended" in status.times]
    fill_s = sum((times["ended"] - times["started"] for times in filled), earlier.fill_seconds if earlier else 0.0)
    record = SearchRecord(
        family=experiment.family,
        name=command.search.name,
        identity=identity,
        search=to_dict(command.search),
        default_configuration=command.default_configuration,
        epochs=experiment.most_epochs,
        seeds=experiment.seeds,
        started=now(),
        versions=versions(),
        hardware=hardware(None),
        git=source(),
        fill_seconds=fill_s,
        cache=cache,
    )
    if earlier is not None:
        kept = {name: getattr(earlier, name) for name in ("started", "cpus", "gpus")}
        record = replace(record, **kept, resumes=earlier.resumes + 1, cache=cache or earlier.cache)
    command.folder.write_record(record)
