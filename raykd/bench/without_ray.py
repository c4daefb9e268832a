"""A plan in this process alone, run after run: what the lab does on Ray, where there is only torch."""

import torch

from raykd.data.dataset import Dataset
from raykd.models.weights import file_fingerprint
from raykd.plan import Plan, Run
from raykd.runs import RunStore
from raykd.teacher_table import TeacherTable
from raykd.teaching import decide
from raykd.training.compute import choose
from raykd.training.fill import Filler
from raykd.training.hooks import NO_HOOKS, Hooks
from raykd.training.loop import fit
from raykd.training.teachers import LiveTeacher, Teacher, no_teacher, read_table
from raykd.training.trained import load_trained


def train_plan(plan: Plan, dataset: Dataset, device: torch.device, store: RunStore, hooks: Hooks = NO_HOOKS) -> None:
    """Bring every run to its end, in order; those that are done, and views that are filled, are not done again."""
    for run in plan.runs:
        if store.status(run) != "done":
            fit(run, dataset, store.folder(run), device, _teacher(run, plan, dataset, device, store), hooks)


def _teacher(run: Run, plan: Plan, dataset: Dataset, device: torch.device, store: RunStore) -> Teacher:
    """As the plan decides; a table is filled by the first that asks for it."""
    if run.teacher is None:
        return no_teacher
    folder = store.folder(run.teacher)
    model = load_trained(folder.best).to(device)
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    sha256 = file_fingerprint(folder.best)
    trained = [other.name for other in plan.runs if store.status(other) == "done"]
    teaching = decide(plan, dataset, trained, store.tables, folder)
    if teaching is None or teaching.table is None:
        return LiveTeacher(model, sha256)
    table = TeacherTable(store.tables, teaching.table.key(dataset, sha256))
    filler = Filler(teaching.table, dataset, table, model, choose(device, teaching.table.precision))
    for part in range(teaching.table.num_parts):
        filler.fill(part)
    return read_table(run, dataset, table, device)
