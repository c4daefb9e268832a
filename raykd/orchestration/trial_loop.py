"""What a trial trains: the distilled student of one seed with one setting, by the one loop."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from raykd.data.types import Dataset
from raykd.errors import ConfigError, RejectedConfiguration
from raykd.orchestration.metrics import export
from raykd.orchestration.options import Options, dataset_of
from raykd.orchestration.searcher import EPOCHS, EPOCHS_DONE, NUMBER, SETTING, TOLD
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

LOCK_WAIT_S = 60.0  # the worker of a command that was killed may still be at the trial


@dataclass(frozen=True)
class TrialConfig:
    """What every trial shares. `cache`: what they read their teacher from, or None. stop: the command's StopFlag.

    threads, gpus: of each of the trial's `workers`. started_in: what relative paths of the experiment's are below; Tune
    calls a trial in a working directory of its own.
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
    tell: Callable[[dict[str, Any]], None],
    should_stop: Callable[[], bool],
    group: Group = SINGLE_WORKER,
) -> dict[str, Any]:
    """Train the setting in `config` from where its folder stands; returns the last result.

    tell: given the result of each epoch but the last, which is worth something once the weights are kept, and of those
    that Tune knows already. All workers of `group` tell equally often.
    """
    torch.set_num_threads(shared.threads)
    run, dataset = run_of(config, shared)
    folder, device = SearchFolder(shared.folder).run(config[NUMBER]), device_for(shared.gpus)
    fixed = group.on_first(lambda: model_metrics(run, dataset, shared.search.metrics, device))
    results = Results(run.recipe.epochs, fixed)

    def report_value(row: Mapping[str, float]) -> None:
        result = results.after(row)
        if config[TOLD] < result[EPOCHS_DONE] < result[EPOCHS]:
            tell(result)

    def on_epoch(report: EpochReport) -> None:
        if group.is_first:
            export(run, report, device)
        report_value(report.row(steps_per_epoch=0))

    logging = Logging(tensorboard=True, hyperparameters=config[SETTING])
    store, hooks = RunStore(shared.options.results), Hooks(on_epoch, should_stop)
    with locked(folder, group, LOCK_WAIT_S):
        for row in group.on_first(folder.history):  # of an earlier command, or of a worker that died
            report_value(row)
        train_one(run, folder, dataset, device, store, shared.cache, hooks, group, logging)
        if group.is_first:
            folder.update(model_metrics=fixed)  # for a process elsewhere that reports the result
    return results.last


def run_of(config: Mapping[str, Any], shared: TrialConfig) -> tuple[Run, Dataset]:
    """The run that a trial with the setting in `config` makes, and its data.

    Raises RejectedConfiguration where this setting cannot be planned, and ConfigError where no setting can be.
    """
    dataset = dataset_of(shared.experiment.data, shared.options)

    def plan(setting: Mapping[str, Any]) -> Plan:
        experiment = with_whole_paths(shared.experiment.with_setting(setting), shared.started_in)
        experiment = replace(experiment, seeds=(shared.search.trial_seed,))
        return make_plan(experiment, dataset, shared.options.weights_folder)

    try:
        runs = plan(config[SETTING]).runs
    except ConfigError as error:
        plan({})  # raises, say, for pretrained weights that are gone
        raise RejectedConfiguration(str(error)) from error
    return next(run for run in runs if run.stage == "distilled"), dataset


def with_whole_paths(experiment: Experiment, folder: Path) -> Experiment:
    """Files of weights by their whole paths, those that are relative from `folder`."""
    if experiment.teacher_checkpoint:
        path = folder / Path(experiment.teacher_checkpoint).expanduser()
        experiment = replace(experiment, teacher_checkpoint=str(path))
    for who in ("teacher", "student"):
        weights = getattr(getattr(experiment, who).model, "weights", "")
        if weights not in ("", "pretrained"):
            experiment = override(experiment, f"{who}.model.weights", str(folder / Path(weights).expanduser()))
    return experiment


def model_metrics(run: Run, dataset: Dataset, metrics: Collection[str], device: torch.device) -> dict[str, float]:
    """Return those of `metrics` that are the same for any weights of the run's network: size, and speed on `device`."""
    found: dict[str, float] = {}
    if "parameters" in metrics:
        found["parameters"] = sum(p.numel() for p in make_model(run, dataset).network.parameters())
    if "latency_ms" in metrics:
        model = make_model(run, dataset)
        if run.recipe.channels_last:
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        found["latency_ms"] = latency_ms(model, dataset.image_size, choose_compute(device, run.recipe.precision))
    return found


class Results:
    """What Tune hears of a trial: how far it is, and the search's metrics of its best epoch so far."""

    def __init__(self, epochs: int, fixed: Mapping[str, float]) -> None:
        """epochs: of the whole run. fixed: its `model_metrics`."""
        self._epochs, self._fixed = epochs, fixed
        self._best: Mapping[str, float] | None = None
        self.last: dict[str, Any] = {}

    def after(self, row: Mapping[str, float]) -> dict[str, Any]:
        """The result after an epoch, given its row of a history. An epoch that is trained again changes nothing."""
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
