"""Evaluate the kept weights of a finished run on the validation and test split, once, and record the model's costs.

val.json  test.json   metrics of the kept weights, see metrics.py        costs.json   see costs.py

The epoch was chosen during training (best_epoch.py); the test split chooses nothing. Without validation images there is
no val.json.
test.json is written last. If it exists and belongs to the weights in run.json, the run is not evaluated again and the
test split is not read. Remove it to evaluate the run again.
"""

from dataclasses import replace

import torch

from raykd.config.codec import read_record, write_record
from raykd.data.types import Dataset, Split
from raykd.disk.lookup import is_file
from raykd.provenance import file_sha256, teacher_digest
from raykd.spec.plan import Run
from raykd.store.records import Metrics
from raykd.store.run_folder import RunFolder
from raykd.store.run_store import RunStore
from raykd.training.compute import Compute, configure_process
from raykd.training.costs import model_costs
from raykd.training.metrics import compute_metrics
from raykd.training.model_file import images_of, load_model
from raykd.training.probe import fit_probe
from raykd.training.teacher.load import load_live_teacher
from raykd.training.teacher.sources import LiveTeacher
from raykd.training.training_step import validation_of


def is_tested(folder: RunFolder) -> bool:
    """Return whether test.json exists and belongs to the finished run's weights. Raises DamagedFile."""
    tested, record = read_record(Metrics, folder.test), folder.record()
    return tested is not None and record is not None and tested.weights_sha256 == record.weights_sha256


def evaluate_on_test(run: Run, folder: RunFolder, dataset: Dataset, compute: Compute, shares_gpu: bool = False) -> None:
    """Write val.json, costs.json and test.json for the run's best weights, unless test.json exists for them.

    shares_gpu: whether other runs may use the GPU meanwhile, see `model_costs`.

    Raises DamagedFile for weights that differ from those that the run saved, without reading the test split.
    """
    if is_tested(folder):
        return
    configure_process(compute.device)  # as in training
    weights_sha256 = folder.weights_sha256()
    model = load_model(folder.best).to(compute.device)
    if run.recipe.channels_last:  # likewise
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    probe = None if run.model.classifier else fit_probe(model, run.data, dataset, compute)
    teacher = _teacher_of(run, folder, compute)

    def metrics(split: Split) -> Metrics:
        evaluated = model if probe is None else probe.model
        return replace(
            compute_metrics(evaluated, split, compute, dataset.num_classes, teacher.model if teacher else None),
            classes=dataset.class_names,
            weights_sha256=weights_sha256,
            teacher_sha256=teacher.identity if teacher else None,
            knn_top1=None if probe is None else probe.neighbors_top1(split, compute),
            probe_penalty=None if probe is None else probe.penalty,
        )

    if run.data.val_images:
        write_record(folder.val, metrics(validation_of(run.data, dataset, compute.device)))
    costs = model_costs(folder.path.parent, run.model, model, images_of(dataset), compute, shares_gpu)
    write_record(folder.costs, costs)
    write_record(folder.test, metrics(dataset.test))


def _teacher_of(run: Run, folder: RunFolder, compute: Compute) -> LiveTeacher | None:
    """Return the run's teacher; None if it had none, or if the weights in the teacher's folder have changed.

    It is also None for a teacher without a classifier, which has no predictions to agree with.
    """
    if run.teacher is not None and not run.teacher.model.classifier:
        return None
    teacher_sha256 = folder.require_record().teacher_sha256
    store = RunStore.of(folder)
    folders = [store.folder(teacher) for teacher in run.teachers]
    if not teacher_sha256 or not folders or not all(is_file(teacher.best) for teacher in folders):
        return None
    if teacher_digest([file_sha256(teacher.best) for teacher in folders]) != teacher_sha256:
        return None
    return load_live_teacher(folders, compute.device)
