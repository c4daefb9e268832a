"""What a trial trains: the distilled student of one seed with one setting, by the one loop."""

from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from raykd.data.dataset import Dataset
from raykd.experiment import Experiment
from raykd.orchestration.datasets import dataset_of
from raykd.orchestration.metrics import export
from raykd.orchestration.options import Options
from raykd.orchestration.searcher import EPOCHS, EPOCHS_DONE, NUMBER, SETTING, TOLD
from raykd.overrides import override
from raykd.plan import Run, make_plan
from raykd.runs import RunStore
from raykd.search import Search
from raykd.study import SearchFolder
from raykd.teaching import WantedTable
from raykd.training.compute import choose, device_of
from raykd.training.group import ALONE, Group
from raykd.training.hooks import EpochReport, Hooks
from raykd.training.latency import latency_ms
from raykd.training.loop import fit
from raykd.training.taught import teacher_of
from raykd.training.tensorboard import TensorBoard
from raykd.training.training import make_model

LOCK_WAIT_S = 60.0  # the worker of a command that was killed may still be at the trial


@dataclass(frozen=True)
class TrialConfig:
    """What every trial shares. `table`: what they read their teacher from, or None. stop: the command's StopFlag.

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
    table: WantedTable | None
    stop: Any
    started_in: Path


def train_trial(
    config: Mapping[str, Any],
    shared: TrialConfig,
    tell: Callable[[dict[str, Any]], None],
    should_stop: Callable[[], bool],
    group: Group = ALONE,
) -> dict[str, Any]:
    """Train the setting in `config` from where its folder stands; returns the last result.

    tell: given the result of each epoch but the last, which is worth something once the weights are kept, and of those
    that Tune knows already. All workers of `group` tell equally often.
    """
    torch.set_num_threads(shared.threads)
    run, dataset = run_of(config, shared)
    folder, device = SearchFolder(shared.folder).run(config[NUMBER]), device_of(shared.gpus)
    results = Results(run, dataset, shared.search.metrics, device)

    def hear(row: Mapping[str, float]) -> None:
        result = results.after(row)
        if config[TOLD] < result[EPOCHS_DONE] < result[EPOCHS]:
            tell(result)

    with ExitStack() as held:
        held.enter_context(folder.writer(LOCK_WAIT_S) if group.is_first else nullcontext())
        for row in group.first(folder.history):  # of an earlier command, or of a worker that died
            hear(row)
        began_under = group.first(lambda: folder.began_under)
        teacher = teacher_of(run, began_under, shared.table, RunStore(shared.options.results), dataset, device)
        board = held.enter_context(TensorBoard(folder.tensorboard, config[SETTING]))

        def on_epoch(report: EpochReport) -> None:
            if group.is_first:
                export(run, report, device)
                board.add(report)
            hear(report.row(steps_per_epoch=0))

        fit(run, dataset, folder, device, teacher, Hooks(on_epoch, should_stop), group)
    return results.last


def run_of(config: Mapping[str, Any], shared: TrialConfig) -> tuple[Run, Dataset]:
    """The run that a trial with the setting in `config` makes, and its data."""
    dataset = dataset_of(shared.experiment.data, shared.options)
    experiment = with_whole_paths(shared.experiment.with_setting(config[SETTING]), shared.started_in)
    plan = make_plan(replace(experiment, seeds=(shared.search.trial_seed,)), dataset, shared.options.weights_folder)
    return next(run for run in plan.runs if run.stage == "distilled"), dataset


def with_whole_paths(experiment: Experiment, folder: Path) -> Experiment:
    """Files of weights by their whole paths, those that are relative from `folder`."""
    if experiment.teacher_checkpoint:
        experiment = replace(experiment, teacher_checkpoint=str(folder / experiment.teacher_checkpoint))
    for who in ("teacher", "student"):
        weights = getattr(getattr(experiment, who).model, "weights", "")
        if weights not in ("", "pretrained"):
            experiment = override(experiment, f"{who}.model.weights", str(folder / weights))
    return experiment


class Results:
    """What Tune hears of a trial: how far it is, and the search's metrics of its best epoch so far."""

    def __init__(self, run: Run, dataset: Dataset, metrics: Collection[str], device: torch.device) -> None:
        self._epochs = run.recipe.epochs
        self._best: Mapping[str, float] | None = None
        self._fixed: dict[str, float] = {}
        self.last: dict[str, Any] = {}
        if "parameters" in metrics:
            self._fixed["parameters"] = sum(p.numel() for p in make_model(run, dataset).network.parameters())
        if "latency_ms" in metrics:
            compute = choose(device, run.recipe.precision)
            self._fixed["latency_ms"] = latency_ms(make_model(run, dataset), dataset.image_size, compute)

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
