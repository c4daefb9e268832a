"""A search over an experiment's fields: Tune's Tuner with Optuna's TPE and ASHA; each trial is the one loop.

A trial trains the distilled student of the first seed with one setting, under the experiment's own teacher; the
best is picked on validation. First version: a search that is cut off starts again.

    <results>/<family>/search/  best.json  trials.json          <results>/<family>/search-<fingerprint>/  Tune's own
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from raykd.atomic import write_json
from raykd.config import fingerprint, override, to_dict
from raykd.errors import ConfigError, Interrupted, RunFailed
from raykd.experiment import Experiment, Search
from raykd.orchestration.lab import Options, plan_of, run_lab, teaching_of
from raykd.orchestration.progress import say
from raykd.orchestration.session import ray_session
from raykd.orchestration.trial import METRIC, TrialConfig, run_trial
from raykd.teaching import WantedTable

ROWS_SHOWN = 10


def search(experiment: Experiment, options: Options, console: Console) -> None:
    """Train the teacher where it is not there yet, try the search's settings, print and keep the best."""
    settings = experiment.search
    assert settings is not None
    if experiment.workers.count > 1:
        raise ConfigError(
            f"workers.count = {experiment.workers.count}: a trial has one worker; --set workers.count=1 for a search"
        )
    plan, dataset = plan_of(experiment, options)  # all that can be wrong with it, before Ray starts
    with ray_session():
        run_lab([experiment], replace(options, stages=("teacher",)), console, reports=False)
        teaching = teaching_of(plan, dataset, (), options)  # the table is there by now, where one was to be filled
        table = teaching.table if teaching is not None else None
        rows = _try_all(experiment, settings, options, table, console)
    folder = options.results / experiment.family / "search"
    write_json(folder / "trials.json", rows)
    write_json(folder / "best.json", rows[0])
    _print(rows, console)
    flags = " ".join(f"--set {path}={value!r}" for path, value in rows[0]["setting"].items())
    say(console, f"best on validation, {rows[0][METRIC]:.2f} %: {flags}")
    say(console, f"all trials: {folder / 'trials.json'}")


def _try_all(
    experiment: Experiment, settings: Search, options: Options, table: WantedTable | None, console: Console
) -> list[dict[str, Any]]:
    """One row a trial, the best first."""
    from ray import tune

    from raykd.orchestration.metrics import scrape_targets
    from raykd.orchestration.train_job import slots_of

    slots = slots_of(experiment.workers, settings.trials, settings.trials)
    say(console, f"{settings.trials} trials, {slots.count} at a time")
    name = f"search-{fingerprint([to_dict(experiment, results_only=True), _space_to_dict(settings)])[:12]}"
    folder = (options.results / experiment.family / name).absolute()
    # Tune calls a trial in a working directory of its own: every path must be whole.
    whole = replace(options, results=options.results.absolute(), data_folder=options.data_folder.absolute())
    trial = TrialConfig(
        _with_whole_paths(replace(experiment, search=None)), whole, folder / "runs", slots.cpus, slots.gpus, table
    )
    trainable = tune.with_parameters(run_trial, trial=trial)
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"cpu": slots.cpus, "gpu": slots.gpus}),
        param_space=_space(settings),
        tune_config=_tune_config(settings, experiment.student.epochs, slots.count),
        run_config=tune.RunConfig(name=name, storage_path=str(folder.parent), verbose=0),
    )
    with scrape_targets(options.results), _interrupted_by_signals():
        return _rows(tuner.fit(), settings)


@contextmanager
def _interrupted_by_signals() -> Iterator[None]:
    """Tune knows SIGINT alone. Raises Interrupted: trials have their checkpoints, the search itself begins again."""

    def stop(number: int, _: object) -> None:
        raise Interrupted(f"cut off by {signal.Signals(number).name}; the same command goes on with the trials' runs")

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGUSR2)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _with_whole_paths(experiment: Experiment) -> Experiment:
    """Files of weights by their whole paths, as for `options`."""
    if experiment.teacher_checkpoint:
        whole = str(Path(experiment.teacher_checkpoint).absolute())
        experiment = replace(experiment, teacher_checkpoint=whole)
    for who in ("teacher", "student"):
        weights = getattr(getattr(experiment, who).model, "weights", "")
        if weights not in ("", "pretrained"):
            experiment = override(experiment, f"{who}.model.weights", str(Path(weights).absolute()))
    return experiment


def _space_to_dict(settings: Search) -> dict[str, Any]:
    return {path: to_dict(space) for path, space in settings.space.items()}


def _space(settings: Search) -> dict[str, Any]:
    from ray import tune

    return {
        path: tune.loguniform(space.low, space.high) if space.log else tune.uniform(space.low, space.high)
        for path, space in settings.space.items()
    }


def _tune_config(settings: Search, epochs: int, at_once: int) -> Any:
    import optuna
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return tune.TuneConfig(
        metric=METRIC,
        mode="max",
        num_samples=settings.trials,
        max_concurrent_trials=at_once,
        reuse_actors=True,
        search_alg=OptunaSearch(sampler=optuna.samplers.TPESampler(seed=settings.seed)),
        # By the epoch that a trial is at, so that one which goes on from a checkpoint is compared with its equals.
        scheduler=ASHAScheduler(time_attr="epochs_done", max_t=epochs, grace_period=settings.grace_of(epochs)),
    )


def _rows(grid: Any, settings: Search) -> list[dict[str, Any]]:
    """One row a trial that gave a result, best epoch's validation first. Raises RunFailed when none did."""
    rows = [
        {
            "setting": {path: result.config[path] for path in settings.space},
            METRIC: result.metrics[METRIC],
            "epochs": result.metrics["epochs_done"],
            "seconds": result.metrics["seconds"],
        }
        for result in grid
        if result.error is None and result.metrics and METRIC in result.metrics
    ]
    if not rows:
        raise RunFailed(f"all {len(grid)} trials failed; the first: {_last_line(grid.errors)}")
    return sorted(rows, key=lambda row: -row[METRIC])


def _last_line(errors: list[Exception]) -> str:
    """What a trial raised, without the traceback that Ray wraps it in."""
    return str(errors[0]).strip().splitlines()[-1] if errors else "no result"


def _print(rows: list[dict[str, Any]], console: Console) -> None:
    table = Table(box=None, pad_edge=False)
    for column in (*rows[0]["setting"], "val top1", "epochs", "seconds"):
        table.add_column(column, justify="right")
    for row in rows[:ROWS_SHOWN]:
        values = (f"{value:.4g}" for value in row["setting"].values())
        table.add_row(*values, f"{row[METRIC]:.2f} %", str(row["epochs"]), f"{row['seconds']:.0f}")
    console.print(table)
