"""The end of a command: the best weights laid out by role, report.json, the page, the table."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from raykd.atomic import replacing
from raykd.plan import Plan, Run
from raykd.report.build import build
from raykd.report.text import render_text
from raykd.runs import RunStore

ROLES = {"teacher": "teacher", "baseline": "student_baseline", "distilled": "student_kd"}


def report(results: Path, plans: Sequence[Plan], console: Console) -> None:
    """Write the report over all plans of `results`, and leave the best model of each role in models_saved/."""
    for plan in plans:
        save_models(plan, RunStore(results))
    built = build(results)
    console.print(render_text(built), markup=False, highlight=False, soft_wrap=True)


def save_models(plan: Plan, store: RunStore) -> None:
    """models_saved/<family>_<role>.safetensors: of each stage the seed that is best on validation."""
    for stage, role in ROLES.items():
        done = [run for run in plan.runs if run.stage == stage and store.status(run) == "done"]
        if done:
            best = max(done, key=lambda run: _val_top1(run, store))
            with replacing(store.results / "models_saved" / f"{plan.experiment.family}_{role}.safetensors") as aside:
                shutil.copyfile(store.folder(best).best, aside)


def _val_top1(run: Run, store: RunStore) -> float:
    return store.folder(run).record()["best"]["val_top1"]
