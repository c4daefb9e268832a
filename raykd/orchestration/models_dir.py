"""Report the test accuracies of a folder of model files, which are named by family and role."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from raykd import models
from raykd.data.types import Dataset
from raykd.disk.atomic import write_json
from raykd.disk.lookup import is_file
from raykd.errors import ConfigError
from raykd.orchestration.command import Command
from raykd.orchestration.data_storage import with_packs
from raykd.orchestration.options import dataset_of
from raykd.spec.experiment import Data, Experiment
from raykd.spec.stages import REPORT_KEYS, ROLES, STAGES, Stage
from raykd.training.compute import best_device, choose_compute
from raykd.training.evaluate import evaluate
from raykd.training.model_file import Header, build_with_weights, images_of, load_model, read_header

SUFFIXES = (".safetensors", ".pth", ".pt")


def report_models(experiments: Sequence[Experiment], command: Command) -> None:
    """Evaluate DIR/<family>_<role>.safetensors (or .pth) on the test split, and write DIR/report.json.

    DIR is the results folder of `command`.

    A file that raykd wrote names its model and data. Any other file must hold weights of the model in its family's
    experiment. A role without a file is null.

    Raises ConfigError for a folder without any such file, and for weights that do not fit.
    """
    models_dir = command.options.results
    accuracies: dict[str, dict[str, float | None]] = {}
    for experiment in experiments:
        files: dict[Stage, Path | None] = {
            stage: _file(models_dir, f"{experiment.family}_{ROLES[stage]}") for stage in STAGES
        }
        if any(files.values()):
            accuracies[experiment.family] = {
                REPORT_KEYS[stage]: _accuracy(file, experiment, stage, command) if file else None
                for stage, file in files.items()
            }
    if not accuracies:
        families = ", ".join(experiment.family for experiment in experiments)
        raise ConfigError(
            f"--models-dir {models_dir} holds no <family>_<role>.safetensors or .pth; "
            f"families are {families}; roles are {', '.join(ROLES.values())}"
        )
    write_json(models_dir / "report.json", accuracies)
    command.log(json.dumps(accuracies, indent=1))


def _file(folder: Path, name: str) -> Path | None:
    return next((path for suffix in SUFFIXES if is_file(path := folder / f"{name}{suffix}")), None)


def _accuracy(file: Path, experiment: Experiment, stage: Stage, command: Command) -> float:
    """Return the test accuracy as a fraction."""
    header = read_header(file)
    if header is not None:
        _require_classifier(header.model, file)
        dataset = _dataset_of(_data_of(header, experiment.data), command)
        model = load_model(file)
    else:
        dataset = _dataset_of(experiment.data, command)
        recipe = experiment.teacher if stage == "teacher" else experiment.student
        configuration = models.find(recipe.model)
        _require_classifier(configuration, file)
        model = build_with_weights(file, configuration, images_of(dataset))
    compute = choose_compute(best_device(), "fp32")  # a weights file does not record a precision
    command.log(f"evaluating {file.name} on {len(dataset.test)} test images")
    return evaluate(model.to(compute.device), dataset.test, compute).top1 / 100


def _data_of(header: Header, data: Data) -> Data:
    """Return the data that the weights were evaluated on: what their header has, and the rest of the experiment's.

    Their network shows in evaluation what it was trained for: only random crops of whole images have a center crop.
    """
    center_crop = data.center_crop if header.center_crop is None else header.center_crop
    same = replace(data, name=header.data, image_size=header.images.size, crop_padding=0)
    if center_crop == 1:
        return replace(same, min_crop_area=None, views_per_image=None, center_crop=1.0)
    return replace(same, min_crop_area=data.min_crop_area or 1.0, center_crop=center_crop, storage="auto")


def _dataset_of(data: Data, command: Command) -> Dataset:
    return dataset_of(data, with_packs([data], command.options, command.log, command.console))


def _require_classifier(model: models.Model, file: Path) -> None:
    if not model.classifier:
        raise ConfigError(
            f"{file}: its network has no classifier and predicts no classes; the report of its run has the accuracy "
            "of a linear probe"
        )
