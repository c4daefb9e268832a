"""An experiment's plan for a person: its runs, its search, its teacher, and how far each is."""

from collections.abc import Sequence

from raykd.experiment import Experiment
from raykd.orchestration.lab import half_done_live, plan_of, teaching_of
from raykd.orchestration.options import Options
from raykd.runs import RunStore
from raykd.search import Search
from raykd.study import SearchFolder


def print_plan(experiments: Sequence[Experiment], options: Options) -> None:
    """The graph of runs with how far each is; nothing is started or written."""
    store = RunStore(options.results)
    plans = [plan_of(experiment, options) for experiment in experiments]
    width = max(len(run.name) for plan, _ in plans for run in plan.runs)
    for plan, dataset in plans:
        search = plan.experiment.search
        print(f"{plan.experiment.family}, results in {options.results.absolute()}")
        for line in dataset.description(plan.experiment.data.val_images):
            print(line)
        if search is not None:
            trials = SearchFolder(store.results / plan.experiment.family / search.name).trials()
            ended = sum(trial.is_ended for trial in trials)
            fields = ", ".join(search.space)
            print(f"  {search.num_trials} trials over {fields}, {ended} of them ended, after the teacher;")
            print(f"  then {_confirming(search)}")
        for run in plan.runs:
            if search is not None and run.stage != "teacher":
                continue
            after = f", after {', '.join(teacher.name for teacher in run.teachers)}" if run.teachers else ""
            print(f"  {run.name:<{width}}  {run.recipe.epochs:>4} epochs  {store.status(run)}{after}")
        trained = {run.name for run in plan.runs if store.status(run) == "done"}
        if (teaching := teaching_of(plan, dataset, trained | half_done_live(plan.runs, store), options)) is not None:
            print(f"teacher of {plan.experiment.family}: {teaching.reason}")


def _confirming(search: Search) -> str:
    if not search.confirm:
        return "the best setting with the experiment's seeds"
    return f"the best {search.confirm} and the experiment's own setting with its seeds, and baselines"
