"""Import a teacher that was trained elsewhere: read its weights, check that they fit the data, save them as a run.

A file that raykd wrote records the model, classes, normalization and training images. Weights that cannot fit are
refused before anything starts, and the network gets the normalization that it was trained with. Other files record
none of this, so `import_check` decides by the network's predictions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from raykd import models
from raykd.config import to_dict
from raykd.data.types import Dataset
from raykd.errors import ConfigError, RunFailed
from raykd.models import ImageModel, ImageSpec, Model
from raykd.models.weights import load_weights
from raykd.provenance import file_sha256
from raykd.spec.plan import Run, train_val_indices
from raykd.store.records import Best, ImportCheck
from raykd.store.run_folder import RunFolder
from raykd.training.compute import Compute
from raykd.training.model_file import Header, header_of, images_of, read_header
from raykd.training.run_record import finish_run
from raykd.training.teacher.import_check import check_import

_NO_EFFECT = ("kind", "weights", "dropout")  # model fields without effect once the weights are loaded


@dataclass(frozen=True)
class Imported:
    """An imported network with its weights on the CPU, the header to save it with, and cautions, one sentence each."""

    model: ImageModel
    header: Header
    cautions: tuple[str, ...]


def load_imported(run: Run, dataset: Dataset) -> Imported:
    """Load the weights file of `run`. Raises ConfigError if its weights, model or classes do not fit."""
    assert run.imported is not None
    path = Path(run.imported.path)
    file_header = read_header(path)
    if file_header is not None:
        _require_same_model(path, file_header.model, run.model)
        _require_same_classes(path, file_header.classes, dataset)
    # Pretrained weights have a normalization, which would replace that of the imported file.
    architecture = replace(run.model, **{"weights": ""}) if hasattr(run.model, "weights") else run.model
    header = replace(
        header_of(replace(run, recipe=replace(run.recipe, model=architecture)), dataset),
        images=_images(run, dataset, file_header),
        trained_on=file_header.trained_on if file_header else None,
    )
    model = models.build(header.model, header.images, run.seed)
    note = load_weights(model.network, path, key=run.imported.key, heads=model.heads())
    return Imported(model, header, (*header_cautions(run, dataset), *([note] if note else [])))


def import_teacher(run: Run, dataset: Dataset, folder: RunFolder, compute: Compute) -> None:
    """Finish `run` with the weights of its file, and record the check's result in run.json.

    Raises ConfigError if the weights do not fit. run.json then has the reason, and the check is not repeated.
    """
    assert run.imported is not None
    if file_sha256(Path(run.imported.path)) != run.imported.sha256:
        raise RunFailed(f"weights file '{run.imported.path}' has changed since this command started; rerun it")
    imported = load_imported(run, dataset)
    result = check_import(imported.model.to(compute.device), run.data, dataset, compute)
    result = replace(result, cautions=(*imported.cautions, *result.cautions))
    best = Best(None, result.val_top1)
    folder.update(imported=result, best=best)
    require_import_fits(run, folder)
    finish_run(run, folder, dataset, imported.model, imported.model.network.state_dict(), 0.0, best, imported.header)


def read_import_check(folder: RunFolder) -> ImportCheck | None:
    """Return the check's result for the teacher in `folder`, None before it was checked. Raises DamagedFile."""
    record = folder.record()
    return record.imported if record else None


def require_import_fits(run: Run, folder: RunFolder) -> None:
    """Raise ConfigError if `run` is an imported teacher that was checked and does not fit."""
    if run.imported and (result := read_import_check(folder)) and result.refused:
        notes = "; ".join(("", *result.cautions))
        raise ConfigError(f"teacher_checkpoint = {run.imported.path}: {result.refused}{notes}")


def header_cautions(run: Run, dataset: Dataset) -> tuple[str, ...]:
    """Return what the header of the teacher's file warns of; () for a file without a header."""
    assert run.imported is not None
    header = read_header(Path(run.imported.path))
    if header is None:
        return ()
    cautions = [_class_names_caution(header.classes, dataset), _overlap_caution(run, dataset, header)]
    if header.images.size != dataset.image_size:
        cautions.append(
            f"the imported teacher was trained on images of {header.images.size} pixels, and these are "
            f"{dataset.image_size} pixels wide"
        )
    return tuple(filter(None, cautions))


def _images(run: Run, dataset: Dataset, header: Header | None) -> ImageSpec:
    """Return the data's shape with the teacher's mean and std: the user's, else the file's, else those of timm."""
    images = images_of(dataset)
    if run.normalization:
        red, green, blue, red_std, green_std, blue_std = run.normalization
        return replace(images, mean=(red, green, blue), std=(red_std, green_std, blue_std))
    if header is not None:
        spec = header.model.input_spec(header.images)
    elif hasattr(run.model, "weights"):
        spec = replace(run.model, **{"weights": "file"}).input_spec(images)
    else:
        spec = images
    return replace(images, mean=spec.mean, std=spec.std)


def _require_same_model(path: Path, file_model: Model, model: Model) -> None:
    """Raise ConfigError for another architecture.

    Equal shapes are not enough: a ViT of width 192 has the same tensors with 3 heads and with 6.
    """
    in_file, expected = ({**to_dict(either)} for either in (file_model, model))
    if in_file["kind"] == expected["kind"]:
        names = [name for name in in_file if name not in _NO_EFFECT and in_file[name] != expected.get(name)]
        if not names:
            return
        changes = [f"{name} = {_text(in_file[name])}, not {_text(expected.get(name))}" for name in names]
        remedy = " ".join(f"--set teacher.model.{name}={_text(in_file[name])}" for name in names)
        raise ConfigError(
            f"weights file '{path}' has another architecture, width or depth than teacher.model: it was trained with "
            f"{'; '.join(changes)}; use {remedy}"
        )
    raise ConfigError(
        f"weights file '{path}' has another architecture: it was trained as {file_model.label}, and teacher.model is "
        f"{model.label}; set teacher.model to the model that was trained"
    )


def _text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _require_same_classes(path: Path, file_classes: Sequence[str], dataset: Dataset) -> None:
    """Raise ConfigError for another number, other names or another order of the classes."""
    classes = dataset.class_names
    both = (file_classes, classes)
    if len(file_classes) != len(classes):
        raise ConfigError(
            f"weights file '{path}' has another number of classes: it was trained on {len(file_classes)}, and "
            f"{dataset.name} has {len(classes)}; use a teacher of the same classes"
        )
    # 'Traffic light' equals 'traffic_light'.
    simplified = [["".join(filter(str.isalnum, name.casefold())) or name for name in names] for names in both]
    if any(len({*names}) < len(names) for names in simplified):  # '1.0' and '10', or 'C' and 'C++', are two classes
        simplified = [[name.casefold() for name in names] for names in both]
    if simplified[0] == simplified[1] or _cannot_be_compared(file_classes, classes):
        return
    at = next(index for index, pair in enumerate(zip(*simplified, strict=True)) if pair[0] != pair[1])
    is_reordered = sorted(simplified[0]) == sorted(simplified[1])
    raise ConfigError(
        f"weights file '{path}' was trained on {'classes in another order' if is_reordered else 'other classes'}: its "
        f"class {at} is '{file_classes[at]}', and that of {dataset.name} is '{classes[at]}'; use a teacher of the same "
        "classes in the same order"
    )


def _cannot_be_compared(file_classes: Sequence[str], classes: Sequence[str]) -> bool:
    """Return whether either side has numbers for names, unless both have the same numbers in another order."""
    if sorted(file_classes) == sorted(classes):
        return False
    return any(all(name.strip().isdecimal() for name in names) for names in (file_classes, classes))


def _class_names_caution(file_classes: Sequence[str], dataset: Dataset) -> str:
    classes = dataset.class_names
    if [*file_classes] == [*classes] or not _cannot_be_compared(file_classes, classes):
        return ""
    return (
        f"class names do not show whether the imported teacher has the classes of {dataset.name} in the same order: "
        f"its first is '{file_classes[0]}', that of the data is '{classes[0]}'"
    )


def _overlap_caution(run: Run, dataset: Dataset, header: Header) -> str:
    """Describe how many of the validation images the teacher was trained on; '' if there are none or it is unknown."""
    split = header.trained_on
    if split is None or split.num_images != len(dataset.train.labels):
        return ""
    # The identity changes with the size or order of the images. Built-in data are then recognized by their name.
    is_built_in = ":" not in header.data + dataset.name
    if split.data_identity != dataset.identity and not (is_built_in and header.data == dataset.name):
        return ""
    if split.data_identity != dataset.identity and header.images.size == dataset.image_size:
        return (
            f"the imported teacher was trained on {dataset.name} from other files, where the images may be in another "
            "order, so it may have been trained on images that are used for validation now"
        )
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
