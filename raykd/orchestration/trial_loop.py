"""The training of one trial: the distilled student of one seed with one setting, by `train_one`."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from raykd.data.types import Dataset
from raykd.errors import ConfigError, RejectedConfiguration
from raykd.orchestration.metrics import export
from raykd.orchestration.options import Options, dataset_of
from raykd.orchestration.searcher import EPOCHS, EPOCHS_DONE, NUMBER, REPORTED, SETTING
from raykd.spec.experiment import Experiment
from raykd.spec.overrides import override
from raykd.spec.plan import Plan, Run, make_plan
from raykd.spec.search import Search
from raykd.store.run_store import RunStore
from raykd.store.study import SearchFolder
from raykd.training.compute import choose_compute, device_for
from raykd.training.group import SINGLE_WORKER, Group
from raykd.training.hooks import EpochReport, Hooks
from raykd.training.latency import latency_ms
from raykd.training.state import make_model
from raykd.training.teacher.choose import PlannedCache
from raykd.training.train_one import Logging, locked, train_one

LOCK_WAIT_S = 60.0  # the worker of a killed command may still have the trial locked


@dataclass(frozen=True)
class TrialConfig:
    """The configuration that all trials share.

    threads, gpus: for each of a trial's `workers`. cache: the logit cache that trials read, None for a live teacher.
    stop: the handle of the command's StopFlag. started_in: the folder of the experiment's relative paths, because Tune
    calls each trial in another working directory.
    """

    experiment: Experiment
    search: Search
    options: Options
    folder: Path
    threads: int
    gpus: float
    workers: int
    cache: PlannedCache | None
    stop: Any
    started_in: Path


def train_trial(
    config: Mapping[str, Any],
    shared: TrialConfig,
    report: Callable[[dict[str, Any]], None],
    should_stop: Callable[[], bool],
    group: Group = SINGLE_WORKER,
) -> dict[str, Any]:
    """Start or resume the trial in `config`, and return its last result.

    report: receives the result of each epoch that Tune does not have yet, except the last one, which counts only once
    the weights are saved. All workers of `group` report equally often.
    """
    torch.set_num_threads(shared.threads)
    run, dataset = run_of(config, shared)
    folder, device = SearchFolder(shared.folder).run(config[NUMBER]), device_for(shared.gpus)
    fixed = group.on_first(lambda: model_metrics(run, dataset, shared.search.metrics, device))
    results = Results(run.recipe.epochs, fixed)

    def report_value(row: Mapping[str, float]) -> None:
        result = results.after(row)
        if config[REPORTED] < result[EPOCHS_DONE] < result[EPOCHS]:
            report(result)

    def on_epoch(epoch_report: EpochReport) -> None:
        if group.is_first:
            export(run, epoch_report, device)
        report_value(epoch_report.row(steps_per_epoch=0))

    logging = Logging(tensorboard=True, hyperparameters=config[SETTING])
    store, hooks = RunStore(shared.options.results), Hooks(on_epoch, should_stop)
    with locked(folder, group, LOCK_WAIT_S):
        for row in group.on_first(folder.history):  # of an earlier command, or of a worker that died
            report_value(row)
        train_one(run, folder, dataset, device, store, shared.cache, hooks, group, logging)
        if group.is_first:
            folder.update(model_metrics=fixed)  # read by the process that reports the result of several workers
    return results.last


def run_of(config: Mapping[str, Any], shared: TrialConfig) -> tuple[Run, Dataset]:
    """Return the run that trains the setting in `config`, and its data.

    Raises RejectedConfiguration when this setting cannot be planned, and ConfigError when no setting can be.
    """
    dataset = dataset_of(shared.experiment.data, shared.options)

    def plan(setting: Mapping[str, Any]) -> Plan:
        experiment = with_absolute_paths(shared.experiment.with_setting(setting), shared.started_in)
        experiment = replace(experiment, seeds=(shared.search.trial_seed,))
        return make_plan(experiment, dataset, shared.options.weights_folder)

    try:
        runs = plan(config[SETTING]).runs
    except ConfigError as error:
        plan({})  # raises, for example, if pretrained weights are missing
        raise RejectedConfiguration(str(error)) from error
    return next(run for run in runs if run.stage == "distilled"), dataset


def with_absolute_paths(experiment: Experiment, folder: Path) -> Experiment:
    """Return `experiment` with absolute paths of weights files; relative paths start at `folder`."""
    if experiment.teacher_checkpoint:
        path = folder / Path(experiment.teacher_checkpoint).expanduser()
        experiment = replace(experiment, teacher_checkpoint=str(path))
    for role in ("teacher", "student"):
        weights = getattr(getattr(experiment, role).model, "weights", "")
        if weights not in ("", "pretrained"):
            experiment = override(experiment, f"{role}.model.weights", str(folder / Path(weights).expanduser()))
    return experiment


def model_metrics(run: Run, dataset: Dataset, metrics: Collection[str], device: torch.device) -> dict[str, float]:
    """Return those of `metrics` that do not depend on the weights: parameters, and latency on `device`."""
    values: dict[str, float] = {}
    if "parameters" in metrics:
        values["parameters"] = sum(p.numel() for p in make_model(run, dataset).network.parameters())
    if "latency_ms" in metrics:
        model = make_model(run, dataset)
        if run.recipe.channels_last:
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        values["latency_ms"] = latency_ms(model, dataset.image_size, choose_compute(device, run.recipe.precision))
    return values


class Results:
    """A trial's results for Tune: the epochs done, and the search's metrics of the best epoch so far."""

    def __init__(self, epochs: int, fixed: Mapping[str, float]) -> None:
        """epochs: of the whole run. fixed: the run's `model_metrics`."""
        self._epochs, self._fixed = epochs, fixed
        self._best: Mapping[str, float] | None = None
        self.last: dict[str, Any] = {}

    def after(self, row: Mapping[str, float]) -> dict[str, Any]:
        """Return the result after an epoch, given its row of the history. A repeated epoch changes nothing."""
        if self._best is None or row["val_top1"] > self._best["val_top1"]:
            self._best = row
        self.last = {
            EPOCHS_DONE: int(row["epoch"]) + 1,
            EPOCHS: self._epochs,
            "val_top1": self._best["val_top1"],
            "val_loss": self._best["val_loss"],
            "seconds": row["seconds"],
            "images_per_s": row["images_per_s"],
            **self._fixed,
        }
        return self.last
