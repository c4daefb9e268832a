"""The end of a command: test figures, the best weights laid out by role, report.json, the page, the table."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from raykd.atomic import replacing
from raykd.config import from_dict
from raykd.data.dataset import load
from raykd.errors import ConfigError
from raykd.orchestration.progress import say
from raykd.plan import Run
from raykd.report.build import build
from raykd.report.text import render_text
from raykd.runs import RunFolder, read_json
from raykd.training.device import best_device
from raykd.training.testing import evaluate_on_test, is_tested

# Stage of the plan -> its name in models_saved/.
ROLES = {"teacher": "teacher", "baseline": "student_baseline", "distilled": "student_kd"}


def report_results(results: Path, data_folder: Path, console: Console) -> None:
    """Evaluate what is trained and not yet evaluated, and write the report over every plan in `results`."""
    for run, folder in _done_runs(results):
        if not is_tested(folder):
            say(console, f"evaluating {run.name} on the test set")
            dataset = load(run.data.name, data_folder, run.data.image_size, results / ".data")
            if dataset.identity != run.data_identity:
                raise ConfigError(
                    f"{run.name} was trained on other data than '{data_folder}' holds; name its --data-dir"
                )
            evaluate_on_test(folder, dataset, best_device(), run.recipe.precision)
    report(results, console)


def report(results: Path, console: Console) -> None:
    """Lay the best model of each role out in models_saved/, and write and print the report."""
    best: dict[str, tuple[float, RunFolder]] = {}
    for run, folder in _done_runs(results):
        role, val_top1 = f"{run.family}_{ROLES[run.stage]}", folder.record()["best"]["val_top1"]
        if role not in best or val_top1 > best[role][0]:
            best[role] = (val_top1, folder)
    for role, (_, folder) in best.items():
        with replacing(results / "models_saved" / f"{role}.safetensors") as aside:
            shutil.copyfile(folder.best, aside)
    say(console, render_text(build(results)))


def _done_runs(results: Path) -> Iterator[tuple[Run, RunFolder]]:
    """The runs of all plans that are done."""
    for path in sorted(results.glob("*/plan.json")):
        stages: dict[str, list[str]] = read_json(path).get("stages", {})
        for name in (name for names in stages.values() for name in names):
            folder = RunFolder(path.parent / name)
            if folder.status() == "done":
                yield from_dict(Run, folder.record()["config"]), folder
