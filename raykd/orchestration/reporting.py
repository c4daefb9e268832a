"""The end of a command: test metrics, the best weights of each family and role, report.json, the page and the table."""

import shutil
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.console import Console

from raykd.disk.atomic import replacing
from raykd.disk.damage import damaged
from raykd.disk.lookup import find, is_file
from raykd.errors import removed_meanwhile
from raykd.orchestration.command import Command
from raykd.orchestration.data_storage import with_packs
from raykd.orchestration.options import dataset_of
from raykd.orchestration.progress import log
from raykd.spec.stages import ROLES, SAVED_MODELS, STAGES, TEACHERS
from raykd.store.migration import require_migrated
from raykd.store.records import read_plan
from raykd.store.results_folder import in_use
from raykd.store.run_folder import RunFolder, planned_folder
from raykd.training.compute import best_device, choose_compute
from raykd.training.final_evaluation import evaluate_on_test, is_tested
from raykd.training.run_record import recorded_run, require_same_data

if TYPE_CHECKING:
    from raykd.report.figures.saved import FigureFormat
    from raykd.report.report import Report


def evaluate_and_report(command: Command, figure_formats: "Sequence[FigureFormat]" = ()) -> "Report":
    """Evaluate the trained runs that are not yet evaluated, and write the report on every plan in the results folder.

    A run that was trained on CPUs is evaluated on the CPU, any other run on a GPU if there is one.
    """
    results = command.options.results
    require_migrated(results)
    folders = _planned_folders(results)
    has_several = len({folder.family for folder in folders} - {TEACHERS}) > 1
    for folder in folders:
        if folder.status() == "done" and not is_tested(folder):
            with in_use(results):
                family = f"{folder.family}/" if has_several and folder.family != TEACHERS else ""
                command.log(f"evaluating {family}{folder.path.name} on the test split")
                _evaluate(folder, command)
    return write_report(results, command.console, True, figure_formats)


def _evaluate(folder: RunFolder, command: Command) -> None:
    """Evaluate one trained run on the validation and test split."""
    run = recorded_run(folder)
    options = with_packs([run.data], command.options, command.log, command.console)
    dataset = dataset_of(run.data, options)
    require_same_data(folder.path.name, run.data_identity, dataset)
    compute = folder.require_record().compute
    device = best_device() if compute.device.startswith("cuda") else torch.device("cpu")
    evaluate_on_test(run, folder, dataset, choose_compute(device, compute.precision))


def _planned_folders(results: Path) -> list[RunFolder]:
    """Return the folders of all planned runs, by family and name."""
    folders: dict[Path, RunFolder] = {}
    for path in find(results, "*/plan.json"):
        plan, family = read_plan(path), path.parent.name
        for stage in STAGES:
            planned = (planned_folder(results, family, stage, name) for name in plan.names_of(stage))
            folders |= {folder.path: folder for folder in planned}
    return [folders[path] for path in sorted(folders)]


def write_report(
    results: Path, console: Console, in_full: bool = False, figure_formats: "Sequence[FigureFormat]" = ()
) -> "Report":
    """Write and print the report, and copy the best model of each family and role to models_saved/.

    in_full: print all metrics. figure_formats: of the figures that are also written as files.
    """
    from raykd.report.build import build  # imported here, so that no run waits for the import of matplotlib
    from raykd.report.render.terminal import render_text

    report = build(results, figure_formats)  # checks every file before anything is written
    best_runs = _best_of_each_role(report, results)
    for family_role, folder in best_runs.items():
        if folder is None:
            continue
        if damage := folder.weights_damage():
            log(console, f"{SAVED_MODELS}/{family_role}.safetensors is not updated: {damaged(folder.best, damage)}")
            continue
        try:
            with replacing(results / SAVED_MODELS / f"{family_role}.safetensors") as temporary:
                shutil.copyfile(folder.best, temporary)
        except FileNotFoundError:
            if is_file(folder.best):
                raise
            log(console, f"{SAVED_MODELS}/{family_role}.safetensors is not updated: {removed_meanwhile(folder.best)}")
    # Models of which no run in the current plan is done may be the only copies of runs that were removed.
    outdated = [f"{SAVED_MODELS}/{family_role}.safetensors" for family_role, folder in best_runs.items() if not folder]
    for path in outdated:
        if is_file(results / path):
            log(console, f"{path} is kept from an earlier run: no run of the current plan is done")
    log(console, render_text(report, in_full))
    return report


def _best_of_each_role(report: "Report", results: Path) -> dict[str, RunFolder | None]:
    """Return the finished run with the best validation top-1 of each '<family>_<role>', without compared methods.

    Without validation images it is the first one. None if no run of the current plan is finished.
    """
    folders: dict[str, RunFolder | None] = {}
    for family in (summary.family for summary in report.summaries):
        for stage, role in ROLES.items():
            records = [run.record for run in family.stage(stage) if run.record and run.record.status == "done"]
            tops = [(record.best.val_top1 or 0.0, record) for record in records if record.best is not None]
            best = max(tops, key=itemgetter(0), default=None)
            folders[f"{family.name}_{role}"] = RunFolder(results / best[1].family / best[1].name) if best else None
    return folders
