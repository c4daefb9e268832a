"""An experiment's plan as text: its runs, its search, its teacher, and how far each is."""

from collections.abc import Sequence
from pathlib import Path

from raykd.data.types import Dataset
from raykd.errors import plural
from raykd.orchestration.options import Options
from raykd.orchestration.run_experiments import data_lines, half_done_live, plans_of, teacher_choice_of
from raykd.orchestration.space_check import check_search
from raykd.spec.experiment import Experiment
from raykd.spec.plan import Plan, Run
from raykd.spec.search import Search
from raykd.store.run_store import RunStore
from raykd.store.study import SearchFolder
from raykd.training.group import BATCH_NORM, per_worker
from raykd.training.state import make_model
from raykd.training.teacher.import_check import describe_accuracy
from raykd.training.teacher.imported import header_cautions, read_import_check


def print_plan(experiments: Sequence[Experiment], options: Options) -> None:
    """Print the graph of runs with how far each is; nothing is started or written.

    Raises ConfigError for everything that a run of the same experiments refuses before Ray starts.
    """
    store = RunStore(options.results)
    plans = plans_of(experiments, options)
    for plan, dataset in plans:
        if plan.experiment.search is not None:
            check_search(plan.experiment, plan, dataset, options)
    lines = [(run.name, plural(run.recipe.epochs, "epoch")) for plan, _ in plans for run in plan.runs]
    name_width, epochs_width = (max(len(line[column]) for line in lines) for column in (0, 1))
    for plan, dataset in plans:
        search = plan.experiment.search
        print(f"{plan.experiment.family}, results in {options.results.absolute()}")
        for line in data_lines(plan, dataset):
            print(line)
        if search is not None:
            _print_search(search, store.results / plan.experiment.family)
        for run in plan.runs:
            if search is not None and run.stage != "teacher":
                continue
            after = f", after {', '.join(teacher.name for teacher in run.teachers)}" if run.teachers else ""
            if run.imported is not None:
                print(f"  {run.name:<{name_width}}  {_imported(run, store)}")
                found = read_import_check(store.folder(run))
                for caution in header_cautions(run, dataset) if found is None else found.cautions:
                    print(f"    beware: {caution}")
                continue
            epochs = plural(run.recipe.epochs, "epoch")
            print(f"  {run.name:<{name_width}}  {epochs:>{epochs_width}}  {store.status(run)}{after}")
        trained = {run.name for run in plan.runs if store.status(run) == "done"}
        for line in _by_several_workers(plan, dataset):
            print(f"  {line}")
        if (
            teaching := teacher_choice_of(plan, dataset, trained | half_done_live(plan.runs, store), options)
        ) is not None:
            print(f"teacher of {plan.experiment.family}: {teaching.reason}")


def _by_several_workers(plan: Plan, dataset: Dataset) -> list[str]:
    """Say which runs of several workers differ from one worker's by more than rounding, and in what."""
    count = plan.experiment.workers.count
    if count == 1:
        return []
    found: dict[str, list[str]] = {}
    for run in {(run.recipe, run.method): run for run in plan.runs if run.imported is None}.values():
        for part in per_worker(run, make_model(run, dataset)):
            found.setdefault(part, []).append(f"the {run.stage}" if run.stage == "teacher" else "students")
    remedy = {BATCH_NORM: "; set sync_batch_norm=true in the recipe to compute them over all workers"}
    return [
        f"workers.count = {count}: each worker has its own {part} ({', '.join(dict.fromkeys(whose))}), so results "
        f"differ from one worker's by more than rounding, under the same run names{remedy.get(part, '')}"
        for part, whose in found.items()
    ]


def _imported(run: Run, store: RunStore) -> str:
    """Where an imported teacher comes from, and its accuracy once it was evaluated."""
    assert run.imported is not None
    found = read_import_check(store.folder(run))
    how = "evaluated before any student starts" if found is None else describe_accuracy(found)
    return f"imported from {run.imported.path}, {how}"


def _print_search(search: Search, folder: Path) -> None:
    ended = sum(trial.is_ended for trial in SearchFolder(folder / search.name).trials())
    print(f"  {plural(search.num_trials, 'trial')} over {', '.join(search.space)}, {ended} ended, after the teacher;")
    print(f"  then {_confirming(search)}")


def _confirming(search: Search) -> str:
    if not search.confirm:
        return "the best setting with the experiment's seeds"
    best = "the best" if search.confirm == 1 else f"the best {search.confirm}"
    baselines = "baselines"
    if any(path.startswith("student.") for path in search.space):
        baselines += " with the winner's student recipe"
    return f"{best} and the experiment's own setting with its seeds, and {baselines}"
