"""The lab: an experiment's plan, checked, trained on Ray, evaluated and reported. One call, one exit code."""

import signal
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from rich.console import Console

from raykd.data.dataset import Dataset, keep_decoded, load
from raykd.errors import ConfigError, Interrupted, RunFailed
from raykd.experiment import Experiment, Workers
from raykd.job_note import note_results
from raykd.orchestration.options import Options
from raykd.orchestration.progress import Progress, plural, say
from raykd.orchestration.queue import Job, JobStatus, State, at_once, jobs_of
from raykd.orchestration.reporting import report
from raykd.orchestration.session import ray_session
from raykd.plan import Plan, Run, make_plan
from raykd.runs import RunStore
from raykd.teaching import Teaching, WantedTable, decide
from raykd.training.networks import Networks
from raykd.training.taught import is_full
from raykd.training.testing import is_tested

# SIGUSR2 is Slurm's warning before the time limit. One scancel can reach a process twice.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
SAME_SIGNAL_S = 2.0


def plan_of(experiment: Experiment, options: Options) -> tuple[Plan, Dataset]:
    """The plan, with everything checked that can be before anything is written or started."""
    data = experiment.data
    decoded = options.decoded if options.decoded.is_dir() else None  # nothing is written before all is checked
    dataset = load(data.name, options.data_folder, data.image_size, decoded)
    plan = checked_plan(experiment, dataset, options)
    RunStore(options.results).require_writable()
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
    return plan


def half_done_live(runs: Iterable[Run], store: RunStore) -> set[str]:
    """Names of those that began under a live teacher: they go on under it, and wait for no table."""
    return {run.name for run in runs if store.folder(run).began_under == "live"}


def teaching_of(plan: Plan, dataset: Dataset, settled: Collection[str], options: Options) -> Teaching | None:
    """How the distilled runs of `plan` that are not `settled` get their teacher's logits; None where there are none.

    settled: names of those that are trained, or half done under a live teacher.
    """
    store = RunStore(options.results)
    teachers = [store.folder(run) for run in plan.runs if run.stage == "teacher"]
    begun = {run.name for run in plan.runs if store.folder(run).began_under == "table" and store.status(run) != "done"}
    return decide(plan, dataset, settled, store.tables, teachers, begun) if teachers else None


def run_lab(
    experiments: Sequence[Experiment], options: Options, console: Console, reports: bool = True
) -> list[JobStatus]:
    """Bring every run of the plans to its end, and report. Raises Interrupted, or RunFailed naming what failed."""
    plans = [plan_of(experiment, options) for experiment in experiments]
    workers = {experiment.workers for experiment in experiments}
    if len({experiment.family for experiment in experiments}) < len(experiments):
        raise ConfigError("two experiments are of one family, and would share a folder and a plan; rename one")
    if len(workers) > 1:
        raise ConfigError("workers differ between experiments on one Ray; set the same for all, or run them apart")
    store = RunStore(options.results)
    store.make_folder()
    note_results(options.results)
    for plan, dataset in plans:
        if left := store.write_plan(plan):
            family = plan.experiment.family
            say(console, f"the report of {family} is about these settings now; {len(left)} runs of others are kept")
        keep_decoded(dataset, options.decoded)
    runs = [run for plan, _ in plans for run in plan.runs]
    trained = {run.name for run in runs if store.status(run) == "done"}
    say(console, f"{plural(len(runs), 'run')}, {len(trained)} of them done before; results in {options.results}")
    settled = trained | half_done_live(runs, store)
    teachings = {plan.experiment.family: teaching_of(plan, dataset, settled, options) for plan, dataset in plans}
    for family, teaching in teachings.items():
        if teaching is not None:
            say(console, f"teacher of {family}: {teaching.reason}")
    wanted = [(teachings[plan.experiment.family], dataset) for plan, dataset in plans]
    tables = [
        filled(table) if is_full(table, store, dataset) else table
        for teaching, dataset in wanted
        for table in (teaching.tables if teaching is not None else ())
    ]
    with stop_signals() as stopped:
        statuses = bring_to_end(runs, tables, workers.pop(), options, console, stopped.is_set)
        try:
            if reports:
                report(options.results, console)
        finally:
            raise_for(statuses)  # which runs failed says more than why there is no report
    return statuses


def filled(table: WantedTable) -> WantedTable:
    """`table` as one that no job has to fill."""
    return replace(table, num_parts=0)


def bring_to_end(
    runs: Sequence[Run],
    tables: Sequence[WantedTable],
    workers: Workers,
    options: Options,
    console: Console,
    should_stop: Callable[[], bool],
    then: Callable[[], Sequence[Run]] | None = None,
) -> list[JobStatus]:
    """Train what is left of `runs`, and evaluate each on the test set; how each job ended.

    tables: what runs read their teachers from; those without one have it live.
    then: asked, once all are trained, which runs to evaluate instead of all.
    """
    store = RunStore(options.results)
    trained = {run.name for run in runs if store.status(run) == "done"}
    evaluated = {run.name for run in runs if then or (run.name in trained and is_tested(store.folder(run)))}
    jobs = jobs_of(runs, trained, evaluated, tables, half_done_live(runs, store))

    def evaluations() -> list[Job]:
        assert then is not None
        return [Job("evaluate", run) for run in then() if not is_tested(store.folder(run))]

    statuses = _do(jobs, workers, options, console, should_stop, evaluations if then else None) if jobs else []
    _record_failures(statuses, store)
    return statuses


def _do(
    jobs: list[Job],
    workers: Workers,
    options: Options,
    console: Console,
    should_stop: Callable[[], bool],
    then: Callable[[], list[Job]] | None,
) -> list[JobStatus]:
    with ray_session() as dashboard:
        from raykd.orchestration.metrics import scrape_targets
        from raykd.orchestration.train_job import run_jobs, slots_of

        slots = slots_of(workers, sum(job.kind != "evaluate" for job in jobs), at_once(jobs))
        say(console, f"{slots}; dashboard {dashboard or 'off'}")
        say(console, "workers start, which takes 10 to 20 seconds")
        with scrape_targets(options.results), Progress(console) as progress:
            return run_jobs(jobs, slots, options.results, options.data_folder, progress.show, should_stop, then)


def _record_failures(statuses: list[JobStatus], store: RunStore) -> None:
    """Say in run.json what the run could not say itself: that its worker died, again and again."""
    for status in statuses:
        folder = store.folder(status.job.run)
        if status.job.kind == "train" and status.state is State.FAILED and folder.status() in ("interrupted", "failed"):
            with folder.writer():
                folder.update(status="failed", reason=status.reason.splitlines()[0])


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
        raise RunFailed(f"{len(failed)} of {len(statuses)} jobs failed; the others are kept:\n{lines}")
    if any(status.state in (State.STOPPED, State.WAITING, State.RUNNING) for status in statuses):
        raise Interrupted("stopped; every run is saved, and the same command goes on from here")
