"""The teacher of a run or of a trial, and what fills its table. In one place: its layout decides its last bits."""

import torch

from raykd.data.dataset import Dataset
from raykd.models import ImageModel
from raykd.models.weights import file_fingerprint
from raykd.plan import Run
from raykd.run_folder import RunFolder
from raykd.runs import RunStore
from raykd.teacher_table import TeacherTable
from raykd.teaching import WantedTable
from raykd.training.compute import choose
from raykd.training.fill import Filler, asked_of
from raykd.training.teachers import LiveTeacher, Teacher, no_teacher, read_table
from raykd.training.trained import load_trained


def teacher_of(
    run: Run, began_under: str, wanted: WantedTable | None, store: RunStore, dataset: Dataset, device: torch.device
) -> Teacher:
    """What teaches `run`: the `wanted` table, or live where there is none, or where the run `began_under` that.

    Raises RunFailed for a table with holes.
    """
    if run.teacher is None:
        return no_teacher
    teacher = store.folder(run.teacher)
    if wanted is None or began_under == "live":
        return teacher_from(teacher, device)
    return read_table(run, dataset, _table(wanted, store, dataset), device)


def filler_of(wanted: WantedTable, store: RunStore, dataset: Dataset, device: torch.device) -> Filler:
    """What fills the parts of `wanted` on `device`."""
    table = _table(wanted, store, dataset, choose(device, wanted.precision).precision)
    model = _model(store.folder(wanted.teacher), device)
    return Filler(wanted, dataset, table, model, choose(device, table.precision))


def is_full(wanted: WantedTable, store: RunStore, dataset: Dataset) -> bool:
    """Whether nothing is left to fill of `wanted`."""
    teacher = store.folder(wanted.teacher)
    if teacher.status() != "done":
        return False
    if not TeacherTable.exists(store.tables, wanted.key(dataset, file_fingerprint(teacher.best))):
        return False
    return not bool((asked_of(wanted, dataset) & ~_table(wanted, store, dataset).filled()).any())


def teacher_from(folder: RunFolder, device: torch.device) -> LiveTeacher:
    """The best weights of the run in `folder`, live."""
    return LiveTeacher(_model(folder, device), file_fingerprint(folder.best))


def _table(wanted: WantedTable, store: RunStore, dataset: Dataset, precision: str = "") -> TeacherTable:
    key = wanted.key(dataset, file_fingerprint(store.folder(wanted.teacher).best))
    return TeacherTable(store.tables, key, precision)


def _model(folder: RunFolder, device: torch.device) -> ImageModel:
    """Channels last, as the loader's images are."""
    model = load_trained(folder.best).to(device)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
