"""One trial of a search, as Tune calls it: a plain function that runs the one loop with one setting.

What goes wrong in a trial is its result and no error: Tune would try it again, and it would go wrong again. Errors
are left to workers that die; their trial is given to another, and goes on from its checkpoint.
"""

import traceback
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from raykd.data.dataset import Dataset, load
from raykd.errors import Interrupted, RaykdError
from raykd.experiment import Data, Experiment
from raykd.orchestration.lab import Options
from raykd.orchestration.metrics import export
from raykd.orchestration.searcher import CUT_OFF, EPOCHS, EPOCHS_DONE, FAILED, NUMBER, SETTING, TOLD
from raykd.orchestration.stop_flag import StopLink
from raykd.orchestration.worker import LOST_GPU
from raykd.plan import Run, make_plan
from raykd.runs import RunStore
from raykd.search import Search
from raykd.study import SearchFolder
from raykd.teaching import WantedTable
from raykd.training.compute import choose, device_of, release_memory
from raykd.training.hooks import EpochReport, Hooks
from raykd.training.latency import latency_ms
from raykd.training.loop import fit
from raykd.training.taught import teacher_of
from raykd.training.tensorboard import TensorBoard
from raykd.training.training import make_model

LOCK_WAIT_S = 60.0  # the worker of a command that was killed may still be at the trial


@dataclass(frozen=True)
class TrialConfig:
    """What every trial shares. `table`: what they read their teacher from, or None. stop: the command's StopFlag."""

    experiment: Experiment
    search: Search
    options: Options
    folder: Path
    threads: int
    gpus: float
    table: WantedTable | None
    stop: Any


def run_trial(config: Mapping[str, Any], shared: TrialConfig) -> None:
    """Train the distilled student with the setting in `config`; Tune hears of each epoch that was not `told`."""
    from ray import tune

    try:
        with StopLink(shared.stop) as link:
            last = _train(config, shared, link)
    except Interrupted:
        last = {CUT_OFF: True}
    except (RaykdError, MemoryError) as error:
        last = {FAILED: str(error) or type(error).__name__}
    except Exception as error:
        if any(words in str(error) for words in LOST_GPU):
            raise  # this process can do no other trial
        traceback.print_exc()
        last = {FAILED: f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}"}
    finally:
        release_memory()
    tune.report(last | {"done": True})


def _train(config: Mapping[str, Any], shared: TrialConfig, link: StopLink) -> dict[str, Any]:
    """The trial's last result."""
    from ray import tune

    torch.set_num_threads(shared.threads)
    experiment, options, device = shared.experiment, shared.options, device_of(shared.gpus)
    dataset = _dataset(experiment.data, options)
    run = run_of(experiment.with_setting(config[SETTING]), shared.search, dataset, options)
    folder = SearchFolder(shared.folder).run(config[NUMBER])
    results = Results(run, dataset, shared.search.metrics, device)

    def tell(row: Mapping[str, float]) -> None:
        result = results.after(row)
        if config[TOLD] < result[EPOCHS_DONE] < result[EPOCHS]:  # the last waits until the weights are kept
            tune.report(result)

    with ExitStack() as held:
        held.enter_context(folder.writer(LOCK_WAIT_S))
        for row in folder.history():  # of an earlier command, or of a worker that died
            tell(row)
        teacher = teacher_of(run, folder.began_under, shared.table, RunStore(options.results), dataset, device)
        board = held.enter_context(TensorBoard(folder.tensorboard, config[SETTING]))

        def on_epoch(report: EpochReport) -> None:
            export(run, report, device)
            board.add(report)
            tell(report.row(steps_per_epoch=0))

        fit(run, dataset, folder, device, teacher, Hooks(on_epoch, link.should_stop))
    return results.last


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


def run_of(experiment: Experiment, search: Search, dataset: Dataset, options: Options) -> Run:
    """The run that a trial of `experiment`, with its setting, makes."""
    plan = make_plan(replace(experiment, seeds=(search.trial_seed,)), dataset, options.weights_folder)
    return next(run for run in plan.runs if run.stage == "distilled")


def _dataset(data: Data, options: Options) -> Dataset:
    return _loaded(data.name, options.data_folder, data.image_size, options.decoded)


@cache
def _loaded(name: str, folder: Path, image_size: int | None, decoded: Path) -> Dataset:
    """Once per worker, however many trials it does."""
    return load(name, folder, image_size, cache=decoded)
