"""An experiment's plan as text: its runs, its search, its teacher, and how far each is."""

from collections.abc import Sequence
from pathlib import Path

from raykd.experiment import Experiment
from raykd.messages import plural
from raykd.orchestration.lab import half_done_live, plans_of, teaching_of
from raykd.orchestration.options import Options
from raykd.orchestration.space_check import check_search
from raykd.runs import RunStore
from raykd.search import Search
from raykd.study import SearchFolder


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
        if search is not None:
            _print_search(search, store.results / plan.experiment.family)
        for run in plan.runs:
            if search is not None and run.stage != "teacher":
                continue
            after = f", after {', '.join(teacher.name for teacher in run.teachers)}" if run.teachers else ""
            epochs = plural(run.recipe.epochs, "epoch")
            print(f"  {run.name:<{name_width}}  {epochs:>{epochs_width}}  {store.status(run)}{after}")
        trained = {run.name for run in plan.runs if store.status(run) == "done"}
        if (teaching := teaching_of(plan, dataset, trained | half_done_live(plan.runs, store), options)) is not None:
            print(f"teacher of {plan.experiment.family}: {teaching.reason}")


def _print_search(search: Search, folder: Path) -> None:
    ended = sum(trial.is_ended for trial in SearchFolder(folder / search.name).trials())
    print(f"  {plural(search.num_trials, 'trial')} over {', '.join(search.space)}, {ended} ended, after the teacher;")
    print(f"  then {_confirming(search)}")


def _confirming(search: Search) -> str:
    if not search.confirm:
        return "the best setting with the experiment's seeds"
    best = "the best" if search.confirm == 1 else f"the best {search.confirm}"
    return f"{best} and the experiment's own setting with its seeds, and baselines"
