"""A plan in this process alone, run after run: what the lab does on Ray, where there is only torch."""

import torch

from raykd.data.dataset import Dataset
from raykd.plan import Plan, Run
from raykd.runs import RunStore
from raykd.teaching import WantedTable, decide
from raykd.training.hooks import NO_HOOKS, Hooks
from raykd.training.taught import filler_of
from raykd.training.train_one import train_one


def train_plan(plan: Plan, dataset: Dataset, device: torch.device, store: RunStore, hooks: Hooks = NO_HOOKS) -> None:
    """Bring every run to its end, in order; those that are done, and views that are filled, are not done again."""
    for run in plan.runs:
        folder = store.folder(run)
        if folder.status() == "done":
            continue
        reads_table = bool(run.teachers) and folder.began_under != "live"
        table = _filled(run, plan, dataset, device, store) if reads_table else None
        train_one(run, folder, dataset, device, store, table, hooks)


def _filled(run: Run, plan: Plan, dataset: Dataset, device: torch.device, store: RunStore) -> WantedTable | None:
    """The table that the plan wants, filled by the first run that asks for it; None for a live teacher."""
    trained = [other.name for other in plan.runs if store.status(other) == "done"]
    teachers = [store.folder(teacher) for teacher in run.teachers]
    teaching = decide(plan, dataset, trained, store.tables, teachers)
    if teaching is None or teaching.table is None:
        return None
    filler = filler_of(teaching.table, store, dataset, device)
    for part in range(teaching.table.num_parts):
        filler.fill(part)
    return teaching.table
