"""Import a teacher that was trained elsewhere: read its weights, check that they fit the data, save them as a run.

Files that raykd wrote have a header with the model, classes, normalization and training split. Weights that do not fit
the experiment are refused before anything starts, and the network gets the normalization of its training. Other files
have no header, so `import_check` evaluates the network's predictions.

run: an imported teacher, whose `imported` has the path of the weights file. Each warning is one sentence.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from raykd import models
from raykd.config import dotted
from raykd.data.dataset_names import BUILT_IN
from raykd.data.types import Dataset
from raykd.errors import ConfigError, RunFailed
from raykd.models import ImageModel, ImageSpec, Model
from raykd.models.hf_files import class_names
from raykd.models.hf_model import HuggingFace
from raykd.provenance import file_sha256
from raykd.spec.plan import Run, train_val_indices
from raykd.store.records import Best, ImportCheck
from raykd.store.run_folder import RunFolder
from raykd.training.compute import Compute
from raykd.training.model_file import Header, TrainingSplit, architecture, header_of, images_of, load_into, read_header
from raykd.training.probe import VotingModel, bank_of
from raykd.training.run_record import finish_run
from raykd.training.teacher.import_check import check_import


@dataclass(frozen=True)
class ImportedTeacher:
    """An imported network with its weights on the CPU. header: for the file of the run that imports it."""

    image_model: ImageModel
    header: Header
    warnings: tuple[str, ...]


def load_imported_teacher(run: Run, dataset: Dataset) -> ImportedTeacher:
    """Load the weights file of `run`. Raises ConfigError if its weights, model or classes do not fit."""
    assert run.imported is not None
    path = Path(run.imported.path)
    file_header = read_header(path)
    if file_header is not None:
        # A network that was trained with its classifier may teach without it.
        has_classifier = file_header.model.classifier and run.model.classifier
        _require_same_model(path, replace(file_header.model, classifier=has_classifier), run.model)
    if (classes := _file_classes(run, file_header)) and run.model.classifier:
        _require_same_classes(path, classes, dataset)
    # A model with `weights` would normalize by them instead of by the header's images.
    model = replace(run.model, **{"weights": ""}) if hasattr(run.model, "weights") else run.model
    header = replace(
        header_of(replace(run, recipe=replace(run.recipe, model=model)), dataset),
        images=_images(run, dataset, file_header),
        trained_on=file_header.trained_on if file_header else None,
    )
    image_model = models.build(header.model, header.images, run.seed)
    warning = load_into(image_model, model, path, run.imported.key)
    return ImportedTeacher(
        image_model, header, tuple(filter(None, (*_header_warnings(run, dataset, file_header), warning)))
    )


def import_teacher(run: Run, dataset: Dataset, folder: RunFolder, compute: Compute) -> None:
    """Evaluate the weights file of `run`, write the result to run.json, and finish the run with these weights.

    Raises ConfigError if the weights do not fit. run.json then has the reason, and the check is not repeated. Raises
    RunFailed if the file has changed since the run was planned.
    """
    assert run.imported is not None
    if file_sha256(Path(run.imported.path)) != run.imported.sha256:
        raise RunFailed(f"weights file '{run.imported.path}' has changed since this command started; rerun it")
    teacher = load_imported_teacher(run, dataset)
    model = teacher.image_model.to(compute.device)
    has_votes = not run.model.classifier
    evaluated = VotingModel(model, bank_of(run.data, dataset, compute.device), compute) if has_votes else model
    result = check_import(evaluated, run.data, dataset, compute, has_votes)
    warnings = (*teacher.warnings, *result.warnings)
    result = replace(result, warnings=warnings)
    best = Best(None, None if result.on_training_images else result.val_top1)
    folder.update(imported=result, best=best)
    require_import_fits(run, folder)
    weights = teacher.image_model.network.state_dict()
    finish_run(run, folder, dataset, teacher.image_model, weights, 0.0, best, teacher.header)


def read_import_check(folder: RunFolder) -> ImportCheck | None:
    """Return the result of checking the teacher in `folder`, or None before the check. Raises DamagedFile."""
    record = folder.record()
    return record.imported if record else None


def require_import_fits(run: Run, folder: RunFolder) -> None:
    """Raise ConfigError if `run` is an imported teacher that the check has refused."""
    if run.imported and (result := read_import_check(folder)) and result.refused:
        notes = "; ".join(("", *result.warnings))
        raise ConfigError(f"teacher_checkpoint = {run.imported.path}: {result.refused}{notes}")


def header_warnings(run: Run, dataset: Dataset) -> tuple[str, ...]:
    """Return warnings from the header of the teacher's file; () for a file without a header."""
    assert run.imported is not None
    return _header_warnings(run, dataset, read_header(Path(run.imported.path)))


def _file_classes(run: Run, header: Header | None) -> tuple[str, ...]:
    """Return the names of the classes in the teacher's file, or in the folder of transformers; () if unknown."""
    assert run.imported is not None
    if header is not None:
        return header.classes
    return class_names(Path(run.imported.path)) if isinstance(run.model, HuggingFace) else ()


def _header_warnings(run: Run, dataset: Dataset, header: Header | None) -> tuple[str, ...]:
    classes = _file_classes(run, header) if run.model.classifier else ()
    warnings = [_class_names_warning(classes, dataset)] if classes else []
    if header is None:
        return tuple(filter(None, warnings))
    warnings.append(_overlap_warning(run, dataset, header))
    if header.images.size != dataset.image_size:
        warnings.append(
            f"the imported teacher was trained on images of {header.images.size} pixels per side, but the "
            f"images of {dataset.name} have {dataset.image_size}"
        )
    return tuple(filter(None, warnings))


def _images(run: Run, dataset: Dataset, header: Header | None) -> ImageSpec:
    """Return the size and classes of the data with the teacher's mean and std.

    In order of preference: the model's fields, the file's header, the library's pretrained weights, the data.
    """
    images = images_of(dataset)
    if header is not None and not run.model.mean:
        spec = header.model.input_spec(header.images)
    elif hasattr(run.model, "weights"):
        spec = replace(run.model, **{"weights": "file"}).input_spec(images)
    else:
        spec = images
    return replace(images, mean=spec.mean, std=spec.std)


def _require_same_model(path: Path, file_model: Model, model: Model) -> None:
    """Raise ConfigError for another architecture.

    Equal shapes of the tensors are not enough: a ViT of width 192 has the same tensors with 3 heads and with 6.
    """
    in_file, expected = (dict(dotted(architecture(one))) for one in (file_model, model))
    if in_file["kind"] == expected["kind"]:
        names = [name for name in {**in_file, **expected} if in_file.get(name) != expected.get(name)]
        if not names:
            return
        changes = [f"{name} = {_text(in_file.get(name))}, not {_text(expected.get(name))}" for name in names]
        settings = [shlex.quote(f"teacher.model.{name}={_text(in_file.get(name))}") for name in names]
        remedy = " ".join(f"--set {setting}" for setting in settings)
        if isinstance(model, HuggingFace) and any(name.startswith("repository.") for name in names):
            changes, remedy = ["another config.json"], "--set teacher.model=hf:FOLDER with the folder of its training"
        raise ConfigError(
            f"weights file '{path}' has another architecture, width or depth than teacher.model: it was trained with "
            f"{'; '.join(changes)}; use {remedy}"
        )
    raise ConfigError(
        f"weights file '{path}' has another architecture: it was trained as {file_model.label}, and teacher.model is "
        f"{model.label}; set teacher.model to the model that was trained"
    )


def _text(value: object) -> str:
    """Return a field's value as --set accepts it; 'none' for an argument that is not set."""
    if value is None:
        return "none"
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _require_same_classes(path: Path, file_classes: Sequence[str], dataset: Dataset) -> None:
    """Raise ConfigError for another number, other names or another order of the classes.

    Case, spaces and punctuation are ignored: 'Traffic light' equals 'traffic_light'.
    """
    classes = dataset.class_names
    both = (file_classes, classes)
    if len(file_classes) != len(classes):
        raise ConfigError(
            f"weights file '{path}' has another number of classes: it was trained on {len(file_classes)}, and "
            f"{dataset.name} has {len(classes)}; use a teacher of the same classes"
        )
    simplified = [["".join(filter(str.isalnum, name.casefold())) or name for name in names] for names in both]
    if any(len({*names}) < len(names) for names in simplified):  # 'C' and 'C++' are two classes
        simplified = [[name.casefold() for name in names] for names in both]
    if simplified[0] == simplified[1] or _cannot_be_compared(file_classes, classes):
        return
    position = next(index for index, pair in enumerate(zip(*simplified, strict=True)) if pair[0] != pair[1])
    is_reordered = sorted(simplified[0]) == sorted(simplified[1])
    raise ConfigError(
        f"weights file '{path}' was trained on {'classes in another order' if is_reordered else 'other classes'}: its "
        f"class {position} is '{file_classes[position]}', and that of {dataset.name} is '{classes[position]}'; use a "
        "teacher of the same classes in the same order"
    )


def _cannot_be_compared(file_classes: Sequence[str], classes: Sequence[str]) -> bool:
    """Return whether the names of one side are numbers, unless both sides have the same names in some order."""
    if sorted(file_classes) == sorted(classes):
        return False
    return any(all(name.strip().isdecimal() for name in names) for names in (file_classes, classes))


def _class_names_warning(file_classes: Sequence[str], dataset: Dataset) -> str:
    """Return a warning if the names cannot show that the classes are the same; '' if they are equal."""
    classes = dataset.class_names
    if [*file_classes] == [*classes] or not _cannot_be_compared(file_classes, classes):
        return ""
    return (
        f"class names do not show whether the imported teacher has the classes of {dataset.name} in the same order: "
        f"its first is '{file_classes[0]}', that of the data is '{classes[0]}'"
    )


def _overlap_warning(run: Run, dataset: Dataset, header: Header) -> str:
    """Return a warning if the teacher was, or may have been, trained on validation images of `run`; else ''."""
    split = header.trained_on
    if split is None or split.num_images != len(dataset.train.labels) or not run.data.val_images:
        return ""
    if split.data_identity == dataset.identity:
        return _counted_overlap_warning(run, dataset, split)
    # The identity changes with the size, the file format and the order of the images. For built-in data, the name
    # shows that the images are the same, but not which index they have.
    if header.data == dataset.name and dataset.name in BUILT_IN:
        is_same_size = header.images.size == dataset.image_size
        origin = "from other files" if is_same_size else "at another size and perhaps from other files"
        return (
            f"the imported teacher was trained on {dataset.name} {origin}, where the images may be in another order, "
            "so it may have been trained on images that are used for validation now"
        )
    return ""


def _counted_overlap_warning(run: Run, dataset: Dataset, split: TrainingSplit) -> str:
    """Return a warning with the number of validation images that the teacher was trained on; '' for none."""
    names = ("val_images", "train_images", "student_images", "split_seed")
    file_data = replace(run.data, **{name: getattr(split, name) for name in names})
    trained, _ = train_val_indices(file_data, dataset.train.labels)
    _, val = train_val_indices(run.data, dataset.train.labels)
    overlap = int(torch.isin(val, trained).sum())
    if not overlap:
        return ""
    return (
        f"the imported teacher was trained on {overlap} of the {len(val)} validation images, so its validation "
        f"accuracy is too high: it was trained with data.val_images={split.val_images} "
        f"data.split_seed={split.split_seed}"
    )
