"""A teacher whose weights were trained elsewhere: read, compared with the data, evaluated, saved like any other run.

A file that raykd wrote says which model, classes, normalization and training images its weights are of: what cannot fit
is refused before anything starts, and the network gets the normalization that it was trained with. Any other file says
none of this, so `import_check` judges by what the network predicts.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
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
from raykd.store.run_folder import RunFolder
from raykd.training.compute import Compute
from raykd.training.model_file import Header, TrainingSplit, header_of, images_of, read_header
from raykd.training.run_record import finish
from raykd.training.teacher.import_check import Findings, check

_NO_EFFECT = ("kind", "weights", "dropout")  # fields of a model that change nothing once the weights are there


@dataclass(frozen=True)
class Imported:
    """The network with its weights on the CPU, the header it is saved under, and what weakens it, one sentence each."""

    model: ImageModel
    header: Header
    cautions: tuple[str, ...]


def load_imported(run: Run, dataset: Dataset) -> Imported:
    """Read the file that `run` names. Raises ConfigError when its weights, its model or its classes do not fit."""
    assert run.imported is not None
    path = Path(run.imported.path)
    theirs = read_header(path)
    if theirs is not None:
        _require_same_model(path, theirs.model, run.model)
        _require_same_classes(path, theirs.classes, dataset)
    own = header_of(replace(run, recipe=replace(run.recipe, model=_without_weights(run.model))), dataset)
    header = replace(own, images=_images(run, dataset, theirs), trained_on=theirs.trained_on if theirs else None)
    model = models.build(header.model, header.images, run.seed)
    note = load_weights(model.network, path, key=run.imported.key)
    return Imported(model, header, (*header_cautions(run, dataset), *([note] if note else [])))


def import_teacher(run: Run, dataset: Dataset, folder: RunFolder, compute: Compute) -> None:
    """Leave `run` done with the weights of the file that it names, and what was found of them in run.json.

    Raises ConfigError when they do not fit; run.json then has the reason, and the run is not evaluated again.
    """
    assert run.imported is not None
    if file_sha256(Path(run.imported.path)) != run.imported.sha256:
        raise RunFailed(f"weights file '{run.imported.path}' has changed since this command began; start it again")
    imported = load_imported(run, dataset)
    found = check(imported.model.to(compute.device), run.data, dataset, compute)
    found = replace(found, cautions=(*imported.cautions, *found.cautions))
    folder.update(imported=asdict(found), best={"epoch": None, "val_top1": found.val_top1})
    require_fit(run, folder)
    state = imported.model.network.state_dict()
    finish(run, folder, dataset, imported.model, state, 0.0, folder.record()["best"], imported.header)


def findings(folder: RunFolder) -> Findings | None:
    """Return what was found of the imported teacher in `folder`; None before it was evaluated. Raises DamagedFile."""
    record = folder.fields()
    if record.values.get("imported") is None:
        return None
    found = record.part("imported")
    top1, num_images = found.number("val_top1", low=0, high=100), found.count("num_images")
    return Findings(top1, num_images, found.text("refused"), tuple(found.texts("cautions")))


def require_fit(run: Run, folder: RunFolder) -> None:
    """Raise ConfigError where the imported teacher `run` was evaluated and does not fit."""
    found = findings(folder) if run.imported is not None else None
    if run.imported is not None and found is not None and found.refused:
        notes = "; ".join(("", *found.cautions))
        raise ConfigError(f"teacher_checkpoint = {run.imported.path}: {found.refused}{notes}")


def header_cautions(run: Run, dataset: Dataset) -> tuple[str, ...]:
    """What the file's header says against the imported teacher `run`; () for a file without one."""
    assert run.imported is not None
    header = read_header(Path(run.imported.path))
    if header is None:
        return ()
    found = [_class_names_caution(header.classes, dataset), _overlap_caution(run, dataset, header)]
    if header.images.size != dataset.image_size:
        found.append(
            f"the imported teacher was trained on images of {header.images.size} pixels, and these are "
            f"{dataset.image_size} pixels wide"
        )
    return tuple(filter(None, found))


def _without_weights(model: Model) -> Model:
    """`model` as its file's weights and header describe it: no further weights decide its normalization."""
    return replace(model, **{"weights": ""}) if hasattr(model, "weights") else model


def _images(run: Run, dataset: Dataset, header: Header | None) -> ImageSpec:
    """The data's shape with the teacher's mean and std: the user's, else the file's, else those of timm's weights."""
    images = images_of(dataset)
    if run.normalization:
        red, green, blue, red_std, green_std, blue_std = run.normalization
        return replace(images, mean=(red, green, blue), std=(red_std, green_std, blue_std))
    if header is not None:
        own = header.model.input_spec(header.images)
    else:
        own = replace(run.model, **{"weights": "file"}).input_spec(images) if hasattr(run.model, "weights") else images
    return replace(images, mean=own.mean, std=own.std)


def _require_same_model(path: Path, theirs: Model, ours: Model) -> None:
    """Equal shapes are not enough: a ViT of width 192 has the same tensors with 3 heads and with 6."""
    one, other = ({**to_dict(model)} for model in (theirs, ours))
    if one["kind"] == other["kind"]:
        names = [name for name in one if name not in _NO_EFFECT and one[name] != other.get(name)]
        if not names:
            return
        changes = [f"{name} = {_text(one[name])}, and teacher.model has {_text(other.get(name))}" for name in names]
        settings = " ".join(f"--set teacher.model.{name}={_text(one[name])}" for name in names)
        raise ConfigError(
            f"weights file '{path}' is of another architecture, width or depth: it was trained with "
            f"{'; '.join(changes)}; {settings}"
        )
    raise ConfigError(
        f"weights file '{path}' is of another architecture: it was trained as {theirs.label}, and teacher.model is "
        f"{ours.label}; name the model it was trained as"
    )


def _text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _require_same_classes(path: Path, theirs: Sequence[str], dataset: Dataset) -> None:
    """Raise ConfigError for another number, other names or another order of the classes."""
    ours = dataset.class_names
    if len(theirs) != len(ours):
        raise ConfigError(
            f"weights file '{path}' is of another number of classes: it was trained on {len(theirs)}, and "
            f"{dataset.name} has {len(ours)}; give a teacher of the same classes"
        )
    plain = [[_plain(name) for name in names] for names in (theirs, ours)]
    if any(len({*names}) < len(names) for names in plain):  # '1.0' and '10', or 'C' and 'C++', are two classes
        plain = [[name.casefold() for name in names] for names in (theirs, ours)]
    if plain[0] == plain[1] or _cannot_be_compared(theirs, ours):
        return
    at = next(index for index, pair in enumerate(zip(*plain, strict=True)) if pair[0] != pair[1])
    what = "classes in another order" if sorted(plain[0]) == sorted(plain[1]) else "other classes"
    raise ConfigError(
        f"weights file '{path}' was trained on {what}: its class {at} is '{theirs[at]}', and that of {dataset.name} is "
        f"'{ours[at]}'; give a teacher of the same classes in the same order"
    )


def _plain(name: str) -> str:
    """Without what differs between spellings of one name: 'Traffic light' is 'traffic_light'."""
    return "".join(letter for letter in name.casefold() if letter.isalnum()) or name


def _cannot_be_compared(theirs: Sequence[str], ours: Sequence[str]) -> bool:
    """Whether either side has numbers for names, unless both have the same numbers in another order."""
    if sorted(theirs) == sorted(ours):
        return False
    return any(all(name.strip().isdecimal() for name in names) for names in (theirs, ours))


def _class_names_caution(theirs: Sequence[str], dataset: Dataset) -> str:
    if [*theirs] == [*dataset.class_names] or not _cannot_be_compared(theirs, dataset.class_names):
        return ""
    return (
        f"whether the imported teacher has the classes of {dataset.name} in the same order cannot be read from their "
        f"names: its first is '{theirs[0]}', the data's is '{dataset.class_names[0]}'"
    )


def _overlap_caution(run: Run, dataset: Dataset, header: Header) -> str:
    """How many of the images that validate now trained the teacher; '' for none and where it is not known."""
    then = header.trained_on
    if then is None or then.num_images != len(dataset.train.labels) or not _is_same_data(then, header, dataset):
        return ""
    if then.data_identity != dataset.identity and header.images.size == dataset.image_size:
        return (
            f"the imported teacher was trained on {dataset.name} from other files, where the images may be in another "
            "order, so whether images that validate now trained it is not known"
        )
    names = ("val_images", "train_images", "student_images", "split_seed")
    trained, _ = train_val_indices(
        replace(run.data, **{name: getattr(then, name) for name in names}), dataset.train.labels
    )
    held_out = train_val_indices(run.data, dataset.train.labels)[1]
    overlap = int(torch.isin(held_out, trained).sum())
    if not overlap:
        return ""
    return (
        f"the imported teacher was trained on {overlap} of the {len(held_out)} images that validate now, so its "
        f"validation accuracy is too high: it was trained with data.val_images={then.val_images} "
        f"data.split_seed={then.split_seed}"
    )


def _is_same_data(then: TrainingSplit, header: Header, dataset: Dataset) -> bool:
    """Return whether the images are the same; at another size or in another order, built-in data by their name."""
    is_custom = ":" in header.data or ":" in dataset.name
    return then.data_identity == dataset.identity or (header.data == dataset.name and not is_custom)
