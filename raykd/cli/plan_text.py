"""Print an experiment's plan: its runs, its search and its teacher, with their progress."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from raykd.data.types import Dataset
from raykd.errors import plural
from raykd.orchestration.data_storage import with_packs
from raykd.orchestration.earlier_runs import earlier_runs_line
from raykd.orchestration.experiment_plans import (
    data_lines,
    plans_of,
    remembering_digests,
    teacher_choice_of,
    warning_lines,
)
from raykd.orchestration.options import Options
from raykd.orchestration.run_states import RunStates
from raykd.orchestration.space_check import check_search, early_comparison
from raykd.report.search_wording import trials_in_words
from raykd.spec.experiment import Experiment
from raykd.spec.plan import Plan, Run
from raykd.spec.recipe import Recipe
from raykd.spec.search import Search
from raykd.store.run_store import RunStore
from raykd.store.study import SearchFolder
from raykd.training.group import BATCH_NORM, per_worker_parts
from raykd.training.teacher.import_check import describe_accuracy
from raykd.training.teacher.imported import header_warnings, read_import_check
from raykd.training.training_step import make_model


def print_plan(experiments: Sequence[Experiment], options: Options) -> None:
    """Print the runs and their progress; start nothing. Raises the ConfigErrors that a run raises before Ray starts.

    Login nodes have little memory and CPU time, so no more images are decoded than a sample.
    """
    options = replace(options, is_plan=True)
    storage: list[str] = []
    with remembering_digests(experiments, options):
        options = with_packs([experiment.data for experiment in experiments], options, storage.append)
        plans = plans_of(experiments, options)
        for plan, dataset in plans:
            if plan.experiment.search is not None:
                check_search(plan.experiment, plan, dataset, options)
        lines = [(run.name, plural(run.recipe.epochs, "epoch")) for plan, _ in plans for run in plan.runs]
        widths = max(len(name) for name, _ in lines), max(len(epochs) for _, epochs in lines)
        for plan, dataset in plans:
            _print_family(plan, dataset, options, storage, widths)


def _print_family(
    plan: Plan, dataset: Dataset, options: Options, storage: Sequence[str], widths: tuple[int, int]
) -> None:
    """Print one experiment's plan. widths: of the names of runs, and of their numbers of epochs."""
    store, (name_width, epochs_width) = RunStore(options.results), widths
    search, states = plan.experiment.search, RunStates.read(plan.runs, store)
    labels = {name: label for label, names in plan.comparison.items() if " " in label for name in names}
    print(f"{plan.experiment.family}, results in {options.results.absolute()}")
    for line in (*data_lines(plan, dataset), *(line for line in storage if line.startswith(f"{dataset.name}: "))):
        print(line)
    if search is not None:
        _print_search(search, plan.experiment.student, store.results / plan.experiment.family)
    for run in plan.runs:
        if run.imported is not None:
            _print_imported(run, dataset, store, name_width)
        elif search is None or run.stage == "teacher":
            epochs = plural(run.recipe.epochs, "epoch")
            after = f", after {', '.join(teacher.name for teacher in run.teachers)}" if run.teachers else ""
            after += f", {labels[run.name]}" if run.name in labels else ""
            print(f"  {run.name:<{name_width}}  {epochs:>{epochs_width}}  {states.statuses[run.name]}{after}")
    command = options.command_parts.get(plan.experiment.family)
    for line in (*worker_differences(plan, dataset), *warning_lines(plan, command)):
        print(f"  {line}")
    if search is None and (line := earlier_runs_line(plan, store)):
        print(f"  {line}")
    if choice := teacher_choice_of(plan, dataset, states, options):
        print(f"teacher of {plan.experiment.family}: {choice.reason}")


def worker_differences(plan: Plan, dataset: Dataset) -> list[str]:
    """Describe how runs of several workers differ from those of one worker by more than rounding, in one line each."""
    count = plan.experiment.workers.count
    if count == 1:
        return []
    stages: dict[str, list[str]] = {}  # by the part of the training that workers do not share
    for run in {(run.recipe, run.method): run for run in plan.runs if run.imported is None}.values():
        for part in per_worker_parts(run, make_model(run, dataset)):
            stages.setdefault(part, []).append(f"the {run.stage}" if run.stage == "teacher" else "students")
    remedy = {BATCH_NORM: "; set sync_batch_norm=true in the recipe to compute them over all workers"}
    return [
        f"workers.count = {count}: each worker has its own {part} ({', '.join(dict.fromkeys(names))}), so results "
        f"differ from one worker's by more than rounding, under the same run names{remedy.get(part, '')}"
        for part, names in stages.items()
    ]


def _print_imported(run: Run, dataset: Dataset, store: RunStore, name_width: int) -> None:
    """Print the file of an imported teacher, its accuracy if it was evaluated before, and its warnings."""
    assert run.imported is not None
    evaluated = read_import_check(store.folder(run))
    accuracy = "evaluated before any student starts" if evaluated is None else describe_accuracy(evaluated)
    print(f"  {run.name:<{name_width}}  imported from {run.imported.path}, {accuracy}")
    for warning in header_warnings(run, dataset) if evaluated is None else evaluated.warnings:
        print(f"    warning: {warning}")


def _print_search(search: Search, recipe: Recipe, folder: Path) -> None:
    num_ended = sum(trial.is_ended for trial in SearchFolder(folder / search.name).trials())
    print(f"  {trials_in_words(search)} over {', '.join(search.space)}, {num_ended} ended, after the teacher;")
    if warning := early_comparison(search, recipe):
        print(f"  warning: {warning}")
    if not search.confirm:
        print("  then the best configuration with the experiment's seeds")
        return
    best = "best configuration" if search.confirm == 1 else f"best {search.confirm} configurations"
    baselines = "baselines"
    if any(path.startswith("student.") for path in search.space):
        baselines += " with the winner's student recipe"
    print(f"  then the {best} and the default one with the experiment's seeds, and {baselines}")
