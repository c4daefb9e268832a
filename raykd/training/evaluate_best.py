"""A trained run is measured: on validation, on the test set, and by what its model costs. Once, and never to choose.

val.json  test.json   the best weights' figures, see measures.py        costs.json   the model's, see costs.py

test.json is written last: where it is there and of the weights that run.json names, the run is not evaluated again, and
the test set is not read. Remove it to evaluate the run again.
"""

from dataclasses import replace

import torch

from raykd.data.types import Dataset, Split
from raykd.provenance import file_sha256, identity_of
from raykd.spec.plan import Run
from raykd.store.codec import read_dataclass, write_dataclass
from raykd.store.records import Metrics
from raykd.store.run_folder import RunFolder
from raykd.training.compute import Compute
from raykd.training.costs import model_costs
from raykd.training.metrics import compute_metrics
from raykd.training.model_file import images_of, load_model
from raykd.training.run_record import recorded_run_of
from raykd.training.state import validation_of
from raykd.training.teacher.load import load_live_teacher
from raykd.training.teacher.sources import LiveTeacher


def is_tested(folder: RunFolder) -> bool:
    """Return whether test.json is there and of the weights that the finished run left. Raises DamagedFile."""
    tested = read_dataclass(Metrics, folder.test)
    return tested is not None and tested.weights_sha256 == folder.record().get("weights_sha256")


def evaluate_on_test(folder: RunFolder, dataset: Dataset, compute: Compute) -> None:
    """Write val.json, costs.json and test.json for the run's best weights, unless they are tested.

    Raises DamagedFile for weights that are not those that the run left: the test set is not read for them.
    """
    if is_tested(folder):
        return
    run, weights_sha256 = recorded_run_of(folder), folder.weights_sha256()
    model = load_model(folder.best).to(compute.device)
    if run.recipe.channels_last:  # as it was validated in training
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    teacher = _teacher_of(run, folder, compute)

    def metrics(split: Split) -> Metrics:
        found = compute_metrics(model, split, compute, dataset.num_classes, teacher.model if teacher else None)
        return replace(
            found,
            classes=dataset.class_names,
            weights_sha256=weights_sha256,
            teacher_sha256=teacher.identity if teacher else None,
        )

    write_dataclass(folder.val, metrics(validation_of(run.data, dataset, compute.device)))
    write_dataclass(folder.costs, model_costs(folder.path.parent, run.model, model, images_of(dataset), compute))
    write_dataclass(folder.test, metrics(dataset.test))


def _teacher_of(run: Run, folder: RunFolder, compute: Compute) -> LiveTeacher | None:
    """Whose weights taught the run; None where none did, and where other weights lie in its teacher's folder now."""
    taught_by = folder.record().get("teacher_sha256")
    beside = [RunFolder(folder.path.parent / teacher.name) for teacher in run.teachers]
    if not taught_by or not beside or not all(teacher.best.is_file() for teacher in beside):
        return None
    if identity_of([file_sha256(teacher.best) for teacher in beside]) != taught_by:
        return None
    return load_live_teacher(beside, compute.device)
