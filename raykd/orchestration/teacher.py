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
from raykd.training.fill import Filler
from raykd.training.teachers import LiveTeacher, Teacher, no_teacher, read_table
from raykd.training.trained import load_trained


def teacher_of(
    run: Run, folder: RunFolder, wanted: WantedTable | None, store: RunStore, dataset: Dataset, device: torch.device
) -> Teacher:
    """What teaches `run`, whose folder is `folder`: the `wanted` table, or live where there is none.

    A run that is half done under a live teacher goes on under it. Raises RunFailed for a table with holes.
    """
    if run.teacher is None:
        return no_teacher
    teacher = store.folder(run.teacher)
    began_live = folder.checkpoint.is_file() and folder.record()["compute"]["teacher"] == "live"
    if wanted is None or began_live:
        return teacher_from(teacher, device)
    return read_table(run, dataset, _table(wanted, store, dataset), device)


def filler_of(wanted: WantedTable, store: RunStore, dataset: Dataset, device: torch.device) -> Filler:
    """What fills the parts of `wanted` on `device`."""
    compute = choose(device, wanted.precision)
    model = _model(store.folder(wanted.teacher), device)
    return Filler(wanted, dataset, _table(wanted, store, dataset), model, compute)


def teacher_from(folder: RunFolder, device: torch.device) -> LiveTeacher:
    """The best weights of the run in `folder`, live."""
    return LiveTeacher(_model(folder, device), file_fingerprint(folder.best))


def _table(wanted: WantedTable, store: RunStore, dataset: Dataset) -> TeacherTable:
    return TeacherTable(store.tables, wanted.key(dataset, file_fingerprint(store.folder(wanted.teacher).best)))


def _model(folder: RunFolder, device: torch.device) -> ImageModel:
    """Channels last, as the loader's images are."""
    model = load_trained(folder.best).to(device)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
