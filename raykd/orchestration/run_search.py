"""A search, end to end: the teacher, the trials, the best settings once more with other seeds, and the report.

<results>/<family>/<name>/  see study.py. The runs that confirm lie beside all others of the family, and the winner's
are the distilled runs of the report.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from raykd.config import to_dict
from raykd.data.types import Dataset
from raykd.errors import Interrupted, RunFailed, plural
from raykd.orchestration.confirm import confirm, is_confirmed, winner_of
from raykd.orchestration.options import Options
from raykd.orchestration.run_experiments import as_filled, plan_of, run_experiments, stop_signals, teacher_choice_of
from raykd.orchestration.run_queue import JobStatus
from raykd.orchestration.run_states import RunStates
from raykd.orchestration.search_identity import SearchCommand
from raykd.orchestration.session import ray_session
from raykd.orchestration.space_check import check_search
from raykd.provenance import hardware, source, versions
from raykd.spec.experiment import Experiment
from raykd.spec.plan import Plan
from raykd.spec.search import Search
from raykd.store.run_folder import now
from raykd.store.run_store import RunStore
from raykd.store.study import Study, Trial, best_first, num_ended
from raykd.training.teacher.choose import PlannedCache, teacher_identity


def search(experiment: Experiment, options: Options, console: Console) -> None:
    """Search, confirm and report, from wherever an earlier command stopped.

    Raises ConfigError for a space that cannot be searched, and for another search of that name; Interrupted when a
    signal said so; RunFailed when every trial failed, or a run that confirms did.
    """
    command = SearchCommand(experiment, options, console)
    plan, dataset = plan_of(experiment, options)  # all that can be wrong with it, before Ray starts
    identity = check_search(experiment, plan, dataset, options)
    with ray_session() if _is_work_left(command) else nullcontext():
        winner = _winner(command, plan, dataset, identity)
        run_experiments([experiment.with_setting(winner)], options, console)


def _winner(command: SearchCommand, plan: Plan, dataset: Dataset, identity: dict[str, Any]) -> dict[str, Any]:
    """The setting that won, once all is searched and confirmed."""
    settings, folder, options = command.settings, command.folder, command.options
    if not _is_work_left(command):
        command.log(f"{plural(settings.num_trials, 'trial')} done before, in {folder.path}")
        return winner_of(folder) if settings.confirm else dict(_best(folder.trials(), settings)[0].setting)
    only_teacher = replace(options, stages=("teacher",))
    teachers = run_experiments([command.experiment], only_teacher, command.console, reports=False)
    states = RunStates.read(plan.runs, RunStore(options.results))
    choice = teacher_choice_of(plan, dataset, states, options)
    cache = as_filled(choice.cache) if choice and choice.cache else None  # it was filled after the teacher's training
    with folder.lock(), stop_signals() as stopped:
        _begin(command, identity, teachers, cache and _name_of(cache, plan, dataset, options))
        study = Study(folder, settings, command.own)
        _try_until_done(command, study, cache, stopped.is_set)
        best = _best(study.trials(), settings)
        if stopped.is_set():
            raise Interrupted("search interrupted after its trials; rerun the same command to resume")
        command.log(f"{plural(len(study.trials()), 'trial')} in {folder.path}")
        return confirm(command, best, cache, stopped.is_set)


def _try_until_done(
    command: SearchCommand, study: Study, cache: PlannedCache | None, should_stop: Callable[[], bool]
) -> None:
    """Run rounds of trials for as long as a round ends some of them.

    A round can leave trials unfinished: Tune gives one up when a worker is not free in time, and a full disk or a
    locked folder is no trial's result. Raises RunFailed with such causes where a round ended no trial.
    """
    before, outside, num_trials = -1, {}, command.settings.num_trials
    while before < (ended := num_ended(study.trials())) < num_trials and not should_stop():
        before = ended
        outside = _try_all(command, study, cache, should_stop)
    if outside and ended < num_trials and not should_stop():
        (number, reason), *others = outside.items()
        more = f" (and {plural(len(others), 'more trial')})" if others else ""
        raise RunFailed(
            f"{ended} of {num_trials} trials ended; trial {number} cannot be trained{more}: {reason}; "
            "remove the cause, and rerun the same command to resume"
        )


def _try_all(
    command: SearchCommand, study: Study, cache: PlannedCache | None, should_stop: Callable[[], bool]
) -> dict[int, str]:
    """Run what is left of the trials once; see `trials.try_all`."""
    from ray import tune

    from raykd.orchestration.metrics import scrape_targets
    from raykd.orchestration.nested_trial import resources_of
    from raykd.orchestration.trainers import slots_of
    from raykd.orchestration.trial import run_trial
    from raykd.orchestration.trial_loop import TrialConfig
    from raykd.orchestration.tuner import try_all

    settings, folder, options = command.settings, command.folder, command.options
    left = settings.num_trials - num_ended(study.trials())
    num_at_once = min(left, settings.max_concurrent or left)
    slots = slots_of(command.experiment.workers, num_at_once, num_at_once)
    command.log(f"{plural(settings.num_trials, 'trial')}, {left} of them left; {slots}")
    command.log("starting workers, which takes 5 to 10 seconds")
    folder.update(cpus=slots.cpus * slots.workers, gpus=slots.gpus * slots.workers)
    # Tune calls a trial in a working directory of its own: every path must be whole.
    whole = replace(options, results=options.results.absolute(), data_folder=options.data_folder.absolute())
    places = command.experiment, settings, whole, folder.path.absolute()

    def make_trainable(flag: Any) -> Any:
        shared = TrialConfig(*places, slots.cpus, slots.gpus, slots.workers, cache, flag, Path.cwd())
        trainable = tune.with_parameters(run_trial, shared=shared)
        return tune.with_resources(trainable, resources_of(slots.cpus, slots.gpus, slots.workers))

    with scrape_targets(options.results):
        return try_all(command, study, make_trainable, slots, should_stop)


def _best(trials: Sequence[Trial], settings: Search) -> list[Trial]:
    """Trials that were trained to their end, the best first; of several metrics, those that none beats in all.

    Raises Interrupted where there are trials left, RunFailed where none came to its end.
    """
    ended = num_ended(trials)
    if ended < settings.num_trials:
        raise Interrupted(
            f"search interrupted after {ended} of {plural(settings.num_trials, 'trial')}; "
            "rerun the same command to resume"
        )
    done = [trial for trial in trials if trial.state == "done"]
    if not done:
        reasons = [trial.reason for trial in trials if trial.reason]
        raise RunFailed(
            f"none of {plural(len(trials), 'trial')} came to its end; the first says: {reasons[0] if reasons else ''}"
        )
    return best_first(done, settings)


def _name_of(cache: PlannedCache, plan: Plan, dataset: Dataset, options: Options) -> str:
    """The folder's name of the logit cache that the trials read. The teachers are trained by now."""
    store = RunStore(options.results)
    teachers = [store.folder(run) for run in plan.runs if run.stage == "teacher"]
    return cache.key(dataset, teacher_identity(teachers)).name


def _begin(command: SearchCommand, identity: dict[str, Any], teachers: Sequence[JobStatus], cache: str | None) -> None:
    """Write search.json: of a new search, or of one that is resumed.

    cache: name of the logit cache that the trials read; None for a live teacher.
    """
    experiment, earlier = command.experiment, command.folder.record()
    filled = [status.times for status in teachers if status.job.kind == "fill" and "ended" in status.times]
    fill_s = sum(times["ended"] - times["started"] for times in filled)
    command.folder.update(
        family=experiment.family,
        name=command.settings.name,
        identity=identity,
        search=to_dict(command.settings),
        own=command.own,
        epochs=experiment.most_epochs,
        seeds=list(experiment.seeds),
        started=earlier.get("started") or now(),
        resumes=earlier.get("resumes", -1) + 1,
        fill_seconds=earlier.get("fill_seconds", 0.0) + fill_s,
        cache=cache or earlier.get("cache"),
        versions=versions(),
        hardware=hardware(None),
        git=source(),
    )


def _is_work_left(command: SearchCommand) -> bool:
    """Whether there is anything to train but what the report is about."""
    return num_ended(command.folder.trials()) < command.settings.num_trials or not is_confirmed(command)
