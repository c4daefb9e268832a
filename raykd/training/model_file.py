"""Model files: safetensors with a header from which the network can be built again."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from raykd import models
from raykd.config import from_dict, to_dict
from raykd.data.types import Dataset, Resizing
from raykd.errors import CodeNotLoaded, ConfigError, one_line, shortened
from raykd.models import ImageModel, ImageSpec, Model
from raykd.models.hf_model import HuggingFace
from raykd.models.library_model import LibraryModel
from raykd.models.vit_cifar import ViT
from raykd.models.weights import load_weights, read_metadata, save_weights
from raykd.spec.plan import Run

_KEY = "raykd"  # the key in the metadata of the safetensors file


def images_of(dataset: Dataset) -> ImageSpec:
    """Return the properties of the images of `dataset` that a network depends on."""
    return ImageSpec(dataset.num_classes, dataset.image_size, dataset.mean, dataset.std)


@dataclass(frozen=True)
class TrainingSplit:
    """The part of a training split of `num_images` that trained the weights.

    data_identity: as in Dataset. The other fields are those of `Data`.
    """

    data_identity: str
    num_images: int
    val_images: int
    train_images: int | None
    student_images: int | None
    split_seed: int


@dataclass(frozen=True)
class Header:
    """The header of a model file.

    images: with the mean and std used in training. trained_on: None if unknown. center_crop: as in `Data`; None if
    unknown. resizing: as in Dataset.
    """

    model: Model
    images: ImageSpec
    data: str
    classes: tuple[str, ...]
    run: str
    trained_on: TrainingSplit | None = None
    center_crop: float | None = None
    resizing: Resizing | None = None


def header_of(run: Run, dataset: Dataset) -> Header:
    """Return the header for `run`, trained on `dataset`."""
    data = run.data
    images = run.model.input_spec(images_of(dataset))
    split = (data.val_images, data.train_images, data.student_images, data.split_seed)
    trained_on = TrainingSplit(dataset.identity, len(dataset.train.labels), *split)
    classes, crop = dataset.class_names, data.center_crop
    return Header(run.model, images, dataset.name, classes, run.name, trained_on, crop, dataset.resizing)


def architecture(model: Model) -> dict[str, Any]:
    """Return `model` as a dictionary, with the defaults of fields that do not affect the network in evaluation.

    These fields are the initial weights, the normalization, and dropout and stochastic depth. For a Hugging Face model,
    the name and the preprocessing are removed too, except the image size.
    """
    names = ("weights", "mean", "std", *(("dropout", "drop_path") if isinstance(model, ViT) else ()))
    changes: dict[str, Any] = {item.name: item.default for item in fields(model) if item.name in names}
    if isinstance(model, LibraryModel):
        changes["arguments"] = model.arguments_in_evaluation
    model = model.architecture if isinstance(model, HuggingFace) else model
    return to_dict(replace(model, **changes))


def save_model(path: Path, state: Mapping[str, Tensor], header: Header) -> None:
    """Save the weights of a network with `header`, so that `load_model` can build it again."""
    save_weights(path, state, {_KEY: json.dumps(asdict(header) | {"model": to_dict(header.model)})})


def read_header(path: Path) -> Header | None:
    """Return the header of a file that raykd wrote; None for any other. Raises ConfigError if it is damaged."""
    metadata = read_metadata(path)
    if _KEY not in metadata:
        return None
    try:
        content = json.loads(metadata[_KEY])
        image_fields = content["images"] | {name: tuple(content["images"][name]) for name in ("mean", "std")}
        model = from_dict(Model, content["model"])
        trained_on = TrainingSplit(**content["trained_on"]) if content["trained_on"] else None
        classes = tuple(content["classes"]) if isinstance(content["classes"], list) else ()
        images, crop = ImageSpec(**image_fields), content.get("center_crop")
        resizing = Resizing(**content["resizing"]) if content.get("resizing") else None
        header = Header(model, images, content["data"], classes, content["run"], trained_on, crop, resizing)
        _require_valid(header)
    except CodeNotLoaded as error:
        raise CodeNotLoaded(f"weights file '{path}': {error}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(
            f"weights file '{path}' was written by another version of raykd, or its header is damaged "
            f"({one_line(shortened(str(error)))}); copy it again, or save its tensors without a header"
        ) from None
    return header


def _require_valid(header: Header) -> None:
    """Raise ValueError with the field's name for a value that raykd cannot have written."""
    images, trained_on = header.images, header.trained_on
    required = {
        "classes": all(isinstance(name, str) for name in header.classes) and bool(header.classes),
        "images.num_classes": _is_count(images.num_classes, 1),
        "images.size": _is_count(images.size, 1),
        "images.mean": len(images.mean) == 3 and all(_is_within(value, 0.0) for value in images.mean),
        "images.std": len(images.std) == 3 and all(_is_within(value, 1e-9) for value in images.std),
        "data": isinstance(header.data, str),
        "run": isinstance(header.run, str),
        "resizing": header.resizing is None
        or all(size is None or _is_count(size, 1) for size in asdict(header.resizing).values()),
        "center_crop": header.center_crop is None or _is_within(header.center_crop, 1e-9),
    }
    if trained_on is not None:
        parts = (trained_on.train_images, trained_on.student_images)
        required["trained_on"] = (
            _is_count(trained_on.num_images, 1)
            and _is_count(trained_on.val_images, 0)
            and all(part is None or _is_count(part, 1) for part in parts)
            and _is_count(trained_on.split_seed, 0)
            and trained_on.val_images < trained_on.num_images
        )
    if invalid := next((name for name, is_valid in required.items() if not is_valid), ""):
        raise ValueError(f"its field '{invalid}' has a value that raykd does not write")


def _is_count(value: object, low: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= low


def _is_within(value: object, low: float) -> bool:
    """Return whether `value` is a number from `low` to 1, as means and deviations of pixels in [0, 1] are."""
    return isinstance(value, int | float) and low <= value <= 1


def load_model(path: Path) -> ImageModel:
    """Return the network with its weights, on the CPU. Raises ConfigError for a file that raykd did not write."""
    header = read_header(path)
    if header is None:
        raise ConfigError(f"weights file '{path}' has no header that names its model; use a file that raykd wrote")
    return build_with_weights(path, header.model, header.images)


def build_with_weights(path: Path, model: Model, images: ImageSpec) -> ImageModel:
    """Return `model` with the weights of any .safetensors or .pth file. Raises ConfigError if they do not fit."""
    built = models.build(model, images, seed=0)
    load_into(built, model, path)
    return built


def load_into(built: ImageModel, model: Model, path: Path, key: str = "", new_head: bool = False) -> str:
    """Load the weights in `path` into the network that `model` built; see `load_weights` for the rest.

    A network without a classifier accepts weights of one with a classifier, which is left out.
    """
    adapt = None if model.classifier else partial(model.adapt_state, built.network)
    return load_weights(built.network, path, new_head or not model.classifier, key, built.heads(), adapt)
