"""Run experiments: check their plans, train on Ray, evaluate and report. One call, one exit code."""

import signal
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from rich.console import Console

from raykd.cluster.progress_record import note_results
from raykd.data.load import keep_decoded, load_dataset
from raykd.data.types import Dataset
from raykd.errors import ConfigError, Interrupted, RunFailed, plural
from raykd.orchestration.options import Options
from raykd.orchestration.progress import Progress, say
from raykd.orchestration.reporting import report
from raykd.orchestration.run_queue import Job, JobStatus, State, jobs_of, max_concurrent
from raykd.orchestration.session import ray_session
from raykd.orchestration.slots import Slots
from raykd.spec.experiment import Experiment, Workers
from raykd.spec.plan import Plan, Run, make_plan
from raykd.store.run_store import RunStore
from raykd.training.evaluate_best import is_tested
from raykd.training.networks import Networks
from raykd.training.restore import restore_weights
from raykd.training.teacher.choose import PlannedCache, TeacherChoice, choose_teacher, split_for_slots
from raykd.training.teacher.import_check import describe_import
from raykd.training.teacher.imported import read_import_check, require_import_fits
from raykd.training.teacher.load import is_full

# SIGUSR2 is Slurm's warning before the time limit. One scancel can reach a process twice.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
SAME_SIGNAL_S = 2.0


def require_together(experiments: Sequence[Experiment]) -> None:
    """Raise ConfigError for experiments that one command cannot run: of one family, or on one Ray with other workers.

    Experiments that search run one after the other, each on a Ray of its own.
    """
    families = [experiment.family for experiment in experiments]
    if twice := [family for family in families if families.count(family) > 1]:
        raise ConfigError(
            f"family = '{twice[0]}': two experiments are of one family, and would share a folder and a plan; rename one"
        )
    if len({experiment.workers for experiment in experiments if experiment.search is None}) > 1:
        raise ConfigError("workers differ between experiments on one Ray; set the same for all, or run them apart")


def plans_of(experiments: Sequence[Experiment], options: Options) -> list[tuple[Plan, Dataset]]:
    """The plans of experiments that run together, checked; a run and --plan refuse the same."""
    require_together(experiments)
    return [plan_of(experiment, options) for experiment in experiments]


def plan_of(experiment: Experiment, options: Options) -> tuple[Plan, Dataset]:
    """The plan, with everything checked that can be before anything is written or started."""
    data = experiment.data
    decoded = options.decoded if options.decoded.is_dir() else None  # nothing is written before all is checked
    dataset = load_dataset(data.name, options.data_folder, data.image_size, decoded)
    plan = checked_plan(experiment, dataset, options)
    store = RunStore(options.results)
    require_imports_fit(plan.runs, store)
    store.require_writable()
    return plan, dataset


def checked_plan(experiment: Experiment, dataset: Dataset, options: Options, networks: Networks | None = None) -> Plan:
    """The plan on `dataset`. Raises ConfigError for models that cannot be made, weights or a method that do not fit.

    networks: of plans on `dataset` that were checked before.
    """
    networks = networks or Networks(dataset)
    plan = make_plan(experiment, dataset, options.weights_folder, options.stages)
    for run in plan.runs:
        networks.of(run)
    for run in {run.method: run for run in plan.runs if run.stage == "distilled"}.values():
        networks.require_method_fits(run)
    for run in {(run.recipe, run.method): run for run in plan.runs}.values():
        networks.require_batch_fits(run, experiment.workers.count)
    return plan


def require_imports_fit(runs: Iterable[Run], store: RunStore) -> None:
    """Raise ConfigError where an imported teacher was evaluated and does not fit, by any command on these results."""
    for run in runs:
        if run.imported is not None:
            require_import_fits(run, store.folder(run))


def half_done_live(runs: Iterable[Run], store: RunStore) -> set[str]:
    """Names of those that began under a live teacher: they go on under it, and wait for no logit cache."""
    return {run.name for run in runs if store.folder(run).teacher_source_at_start == "live"}


def teacher_choice_of(plan: Plan, dataset: Dataset, settled: Collection[str], options: Options) -> TeacherChoice | None:
    """How the distilled runs of `plan` that are not `settled` get their teacher's logits; None where there are none.

    settled: names of those that are trained, or half done under a live teacher.
    """
    store = RunStore(options.results)
    teachers = [store.folder(run) for run in plan.runs if run.stage == "teacher"]
    begun = {
        run.name
        for run in plan.runs
        if store.folder(run).teacher_source_at_start == "cache" and store.status(run) != "done"
    }
    return choose_teacher(plan, dataset, settled, store.logit_caches, teachers, begun) if teachers else None


def run_experiments(
    experiments: Sequence[Experiment], options: Options, console: Console, reports: bool = True
) -> list[JobStatus]:
    """Bring every run of the plans to its end, and report. Raises Interrupted, or RunFailed naming what failed."""
    plans = plans_of(experiments, options)
    store = RunStore(options.results)
    _restore_damaged(plans, store, console)
    store.make_folder()
    note_results(options.results)
    _write_plans(plans, store, options, console)
    runs = [run for plan, _ in plans for run in plan.runs]
    trained = {run.name for run in runs if store.status(run) == "done"}
    say(console, f"{plural(len(runs), 'run')}, {len(trained)} of them done before; results in {options.results}")
    _say_data(console, plans)
    _say_imports(runs, store, console)
    settled = trained | half_done_live(runs, store)
    teachings = {plan.experiment.family: teacher_choice_of(plan, dataset, settled, options) for plan, dataset in plans}
    for family, teaching in teachings.items():
        if teaching is not None:
            say(console, f"teacher of {family}: {teaching.reason}")
    wanted = [(teachings[plan.experiment.family], dataset) for plan, dataset in plans]
    caches = [
        filled(cache) if is_full(cache, store, dataset, partial(say, console)) else cache
        for teaching, dataset in wanted
        for cache in (teaching.caches if teaching is not None else ())
    ]
    with stop_signals() as stopped:
        statuses = run_to_completion(runs, caches, experiments[0].workers, options, console, stopped.is_set)
        try:
            if reports:
                report(options.results, console)
        finally:
            raise_for(statuses)  # which runs failed says more than why there is no report
    return statuses


def _write_plans(plans: Sequence[tuple[Plan, Dataset]], store: RunStore, options: Options, console: Console) -> None:
    """Write each family's plan, and keep its decoded images for the workers."""
    for plan, dataset in plans:
        if left := store.write_plan(plan):
            about = f"the report of {plan.experiment.family} is about these settings now"
            say(console, f"{about}; runs of other settings are kept: {len(left)}")
        keep_decoded(dataset, options.decoded)


def _restore_damaged(plans: Sequence[tuple[Plan, Dataset]], store: RunStore, console: Console) -> None:
    """Restore the best weights of finished runs whose file was damaged, before anything reads them.

    Raises DamagedFile where that cannot be done, and for a damaged run.json; imported weights are imported again.
    """
    runs = [(run, dataset) for plan, dataset in plans for run in plan.runs]
    for run, dataset in [found for found in runs if store.status(found[0]) == "damaged"]:
        if run.imported is None:
            folder = store.folder(run)
            why = folder.weights_damage()
            restore_weights(run, folder, dataset)
            say(console, f"'{folder.best}' was damaged ({why}); it is restored from the run's checkpoint")


def _say_imports(runs: Iterable[Run], store: RunStore, console: Console) -> None:
    """Log the accuracy of imported teachers that an earlier command evaluated."""
    for run in runs:
        if run.imported is not None and (found := read_import_check(store.folder(run))) is not None:
            say(console, f"{run.name}: {describe_import(found)}")


def _say_data(console: Console, plans: Iterable[tuple[Plan, Dataset]]) -> None:
    """Print how many images and which classes were read, so that a wrong folder is noticed."""
    for line in dict.fromkeys(line for plan, dataset in plans for line in data_lines(plan, dataset)):
        say(console, line)


def data_lines(plan: Plan, dataset: Dataset) -> list[str]:
    """Return the lines that describe the plan's data, with how many images of each part it uses."""
    data = plan.experiment.data
    return dataset.description(data.val_images, data.train_images, data.student_images)


def filled(cache: PlannedCache) -> PlannedCache:
    """`cache` as one that no job has to fill."""
    return replace(cache, num_parts=0)


def run_to_completion(
    runs: Sequence[Run],
    caches: Sequence[PlannedCache],
    workers: Workers,
    options: Options,
    console: Console,
    should_stop: Callable[[], bool],
    then: Callable[[Sequence[JobStatus]], Sequence[Run]] | None = None,
) -> list[JobStatus]:
    """Train what is left of `runs`, and evaluate each on the test set; how each job ended.

    caches: what runs read their teachers from; those without one have it live.
    then: called with how the jobs ended. The runs that it returns are evaluated instead of `runs`, and trained before
    where that is left; those that failed are left out.
    """
    store = RunStore(options.results)
    trained = {run.name for run in runs if store.status(run) == "done"}
    evaluated = {run.name for run in runs if then or (run.name in trained and is_tested(store.folder(run)))}
    live = half_done_live(runs, store)
    jobs = jobs_of(runs, trained, evaluated, caches, live)

    def jobs_on(slots: Slots) -> list[Job]:
        """The same jobs, with the logit caches in parts for these slots."""
        sized = [split_for_slots(cache, slots.gpus, slots.count) for cache in caches]
        return jobs_of(runs, trained, evaluated, sized, live)

    def last_jobs(statuses: Sequence[JobStatus]) -> list[Job]:
        assert then is not None
        failed = {status.job.run.name for status in statuses if status.state is not State.DONE}
        last = [run for run in then(statuses) if run.name not in failed]
        trained = {run.name for run in last if store.status(run) == "done"}
        return jobs_of(last, trained, {run.name for run in last if is_tested(store.folder(run))})

    last = last_jobs if then else None
    statuses = _do(jobs, jobs_on, workers, options, console, should_stop, last) if jobs else []
    _record_failures(statuses, store)
    require_imports_fit(runs, store)
    return statuses


def _do(
    jobs: list[Job],
    jobs_on: Callable[[Slots], list[Job]],
    workers: Workers,
    options: Options,
    console: Console,
    should_stop: Callable[[], bool],
    then: Callable[[Sequence[JobStatus]], list[Job]] | None,
) -> list[JobStatus]:
    """Do `jobs`, as `jobs_on` returns them for the slots that the cluster has room for; `then` as in `run_jobs`."""
    with ray_session() as dashboard:
        from raykd.orchestration.metrics import scrape_targets
        from raykd.orchestration.trainers import run_jobs, slots_of

        slots = slots_of(workers, sum(job.kind != "evaluate" for job in jobs), max_concurrent(jobs))
        say(console, f"{slots}; dashboard {dashboard or 'off'}")
        say(console, "workers start, which takes 10 to 20 seconds")
        with scrape_targets(options.results), Progress(console) as progress:
            return run_jobs(
                jobs_on(slots), slots, options.results, options.data_folder, progress.show, should_stop, then
            )


def _record_failures(statuses: list[JobStatus], store: RunStore) -> None:
    """Say in run.json what the run could not say itself: that its worker died, again and again."""
    for status in statuses:
        folder = store.folder(status.job.run)
        if status.job.kind == "train" and status.state is State.FAILED:
            recorded, reason = folder.status(), (status.reason.splitlines() or ["no reason given"])[0]
            if recorded in ("interrupted", "failed"):
                is_known = recorded == "failed" and folder.record().get("reason") == reason
                with folder.writer():
                    folder.update(status="failed", reason=reason, **({} if is_known else {"failure": "outside"}))


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """An event that the first of STOP_SIGNALS sets: runs then save and stop. A later one ends the command."""
    stopped, since = threading.Event(), 0.0

    def stop(number: int, frame: object) -> None:
        nonlocal since
        if not stopped.is_set():
            stopped.set()
            since = time.monotonic()
        elif time.monotonic() - since > SAME_SIGNAL_S:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in STOP_SIGNALS}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def raise_for(statuses: list[JobStatus]) -> None:
    failed = [status for status in statuses if status.state is State.FAILED]
    if failed:
        lines = "\n".join(f"  {status.job.name}: {status.reason}" for status in failed)
        raise RunFailed(f"{len(failed)} of {plural(len(statuses), 'job')} failed; the others are kept:\n{lines}")
    if any(status.state in (State.STOPPED, State.WAITING, State.RUNNING) for status in statuses):
        raise Interrupted("stopped; every run is saved, and the same command goes on from here")
