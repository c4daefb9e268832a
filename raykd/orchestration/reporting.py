"""The end of a command: test figures, the best weights laid out by role, report.json, the page, the table."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from rich.console import Console

from raykd.atomic import replacing
from raykd.config import from_dict
from raykd.data.load import load_dataset
from raykd.errors import ConfigError
from raykd.orchestration.progress import say
from raykd.spec.experiment import Data
from raykd.spec.stages import ROLES
from raykd.store.codec import Fields
from raykd.store.damage import damaged
from raykd.store.plan_file import PlanFile
from raykd.store.run_folder import RunFolder, Status
from raykd.training.compute import best_device, choose_compute
from raykd.training.evaluate_best import evaluate_on_test, is_tested
from raykd.training.run_record import device_type_of, precision_of, require_same_data


def report_results(results: Path, data_folder: Path, console: Console) -> None:
    """Evaluate what is trained and not yet evaluated, and write the report over every plan in `results`.

    A run that was trained on CPUs, as with workers.gpus=0, is evaluated on the CPU, any other on a GPU if there is one.
    """
    for folder in _runs(results, "done"):
        if not is_tested(folder):
            config = folder.fields().part("config")  # not all of it is read: a method's own file may be gone
            data = _data_of(config)
            say(console, f"evaluating {folder.path.name} on the test set")
            dataset = load_dataset(data.name, data_folder, data.image_size, results / ".data")
            require_same_data(folder.path.name, config.text("data_identity"), dataset)
            device = best_device() if device_type_of(folder) == "cuda" else torch.device("cpu")
            evaluate_on_test(folder, dataset, choose_compute(device, precision_of(folder)))
    report(results, console, in_full=True)


def report(results: Path, console: Console, in_full: bool = False) -> None:
    """Write and print the report, and copy the best model of each role to models_saved/; in_full: all metrics."""
    from raykd.report.build import build  # here: matplotlib comes with it, for which no run has to wait
    from raykd.report.render.terminal import render_text

    best_of = _best_of_each_role(results)
    built = build(results)  # it checks every file before anything is written
    for role, folder in best_of.items():
        if why := folder.weights_damage():
            say(console, f"models_saved/{role}.safetensors is left as it is: {damaged(folder.best, why)}")
            continue
        with replacing(results / "models_saved" / f"{role}.safetensors") as aside:
            shutil.copyfile(folder.best, aside)
    say(console, render_text(built, in_full))


def _best_of_each_role(results: Path) -> dict[str, RunFolder]:
    """Return the finished run with the best validation top1 by '<family>_<role>', without methods compared."""
    best: dict[str, tuple[float, RunFolder]] = {}
    for path in sorted(results.glob("*/plan.json")):
        for stage, names in PlanFile.read(path).stages.items():
            for folder in (RunFolder(path.parent / name) for name in names):
                if folder.status() in ("done", "damaged"):
                    role = f"{path.parent.name}_{ROLES[stage]}"
                    val_top1 = folder.fields().part("best").number("val_top1")
                    if role not in best or val_top1 > best[role][0]:
                        best[role] = (val_top1, folder)
    return {role: folder for role, (_, folder) in best.items()}


def _runs(results: Path, status: Status) -> Iterator[RunFolder]:
    """Return the runs of all plans that have this status, each once."""
    for path in sorted(results.glob("*/plan.json")):
        for folder in (RunFolder(path.parent / name) for name in sorted(PlanFile.read(path).names)):
            if folder.status() == status:
                yield folder


def _data_of(config: Fields) -> Data:
    """Return the data of a run's config, whose other fields another version of raykd may have written."""
    try:
        return from_dict(Data, dict(config.mapping("data")))
    except ConfigError as error:
        return config.refuse(f"field 'config.data' was written by another version of raykd ({error})")
