"""One trial of a search, as Tune calls it: a plain function that runs the one loop with one setting."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from raykd.config import override
from raykd.data.dataset import load
from raykd.experiment import Experiment
from raykd.orchestration.lab import Options
from raykd.plan import make_plan
from raykd.run_folder import RunFolder
from raykd.runs import RunStore
from raykd.teaching import WantedTable
from raykd.training.compute import device_of
from raykd.training.hooks import EpochReport, Hooks
from raykd.training.loop import fit
from raykd.training.taught import teacher_of

METRIC = "best_val_top1"


@dataclass(frozen=True)
class TrialConfig:
    """What every trial shares. `runs` is the folder that holds the trials' runs; `table` what they read, or None."""

    experiment: Experiment
    options: Options
    runs: Path
    threads: int
    gpus: float
    table: WantedTable | None


def run_trial(config: Mapping[str, float], trial: TrialConfig) -> None:
    """Train the distilled student of the first seed with `config`, {dotted path: value}; Tune hears of each epoch."""
    from ray import tune

    from raykd.orchestration.metrics import export

    torch.set_num_threads(trial.threads)
    experiment = replace(trial.experiment, seeds=trial.experiment.seeds[:1])
    for path, value in config.items():
        experiment = override(experiment, path, repr(value))
    options, data = trial.options, experiment.data
    dataset = load(data.name, options.data_folder, data.image_size, options.decoded)
    run = next(r for r in make_plan(experiment, dataset, options.weights_folder).runs if r.stage == "distilled")
    assert run.teacher is not None
    folder = RunFolder(trial.runs / run.name)
    if folder.status() == "done":  # the same search was here before
        found = folder.record()
        epochs = run.recipe.epochs
        tune.report({METRIC: found["best"]["val_top1"], "epochs_done": epochs, "seconds": found["seconds"]})
        return
    device = device_of(trial.gpus)
    teacher = teacher_of(run, folder.began_under, trial.table, RunStore(options.results), dataset, device)

    def tell(report: EpochReport) -> None:
        export(run, report, device)
        tune.report(asdict(report) | {"epochs_done": report.epoch + 1})

    last: list[EpochReport] = []  # Tune may end a trial at any report; the last comes when the weights are kept
    fit(run, dataset, folder, device, teacher, Hooks(lambda r: tell(r) if r.epoch + 1 < r.epochs else last.append(r)))
    tell(*last)
