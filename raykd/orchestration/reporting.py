"""The end of a command: test figures, the best weights laid out by role, report.json, the page, the table."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from raykd.atomic import replacing
from raykd.config import from_dict
from raykd.data.dataset import load
from raykd.experiment import Data
from raykd.orchestration.progress import say
from raykd.run_folder import RunFolder, read_json
from raykd.stages import ROLES
from raykd.training.compute import best_device, choose
from raykd.training.records import precision_of, require_same_data
from raykd.training.testing import evaluate_on_test, is_tested


def report_results(results: Path, data_folder: Path, console: Console) -> None:
    """Evaluate what is trained and not yet evaluated, and write the report over every plan in `results`."""
    for folder in _done_runs(results, ("stages", "comparison")):
        if not is_tested(folder):
            config = folder.record()["config"]  # not all of it is read: a method's own file may be gone
            data: Data = from_dict(Data, config["data"])
            say(console, f"evaluating {folder.path.name} on the test set")
            dataset = load(data.name, data_folder, data.image_size, results / ".data")
            require_same_data(folder.path.name, config["data_identity"], dataset)
            evaluate_on_test(folder, dataset, choose(best_device(), precision_of(folder)))
    report(results, console, in_full=True)


def report(results: Path, console: Console, in_full: bool = False) -> None:
    """Lay the best model of each role out in models_saved/, and write and print the report; in_full: all measures."""
    from raykd.report.build import build  # here: matplotlib comes with it, for which no run has to wait
    from raykd.report.text import render_text

    best: dict[str, tuple[float, RunFolder]] = {}
    for folder in _done_runs(results, ("stages",)):
        record = folder.record()
        role, val_top1 = f"{record['family']}_{ROLES[record['stage']]}", record["best"]["val_top1"]
        if role not in best or val_top1 > best[role][0]:
            best[role] = (val_top1, folder)
    for role, (_, folder) in best.items():
        with replacing(results / "models_saved" / f"{role}.safetensors") as aside:
            shutil.copyfile(folder.best, aside)
    say(console, render_text(build(results), in_full))


def _done_runs(results: Path, parts: Sequence[str]) -> Iterator[RunFolder]:
    """Of these parts of all plans, each once. What runs of other families were set to may be a version's of raykd that
    this one cannot read.
    """
    for path in sorted(results.glob("*/plan.json")):
        plan = read_json(path)
        named = [name for part in parts for names in plan.get(part, {}).values() for name in names]
        for name in dict.fromkeys(named):
            folder = RunFolder(path.parent / name)
            if folder.status() == "done":
                yield folder
