"""A trained model on disk: safetensors whose header says how to build the network that the weights fit."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from torch import Tensor

from raykd import models
from raykd.config import from_dict, to_dict
from raykd.data.dataset import Dataset
from raykd.errors import ConfigError
from raykd.models import ImageModel, Images, Model
from raykd.models.weights import load_weights, read_metadata, save_weights
from raykd.plan import Run

_HEADER = "raykd"


def images_of(dataset: Dataset) -> Images:
    """What a network must know of `dataset`."""
    return Images(dataset.num_classes, dataset.image_size, dataset.mean, dataset.std)


def save_trained(path: Path, state: Mapping[str, Tensor], run: Run, dataset: Dataset) -> None:
    """Weights of `run`'s network, with its model, the images it takes, and the run's name in the header."""
    header = {
        "model": to_dict(run.model),
        "images": asdict(images_of(dataset)),
        "run": run.name,
        "classes": dataset.class_names,
    }
    save_weights(path, state, {_HEADER: json.dumps(header)})


def load_trained(path: Path) -> ImageModel:
    """The network with its weights, on the CPU. Raises ConfigError for a file that raykd did not write."""
    header = read_metadata(path).get(_HEADER) if path.is_file() else None
    if header is None:
        raise ConfigError(
            f"weights file '{path}' does not exist or does not say which model it is of; "
            "give a .safetensors that raykd wrote"
        )
    content = json.loads(header)
    shape = content["images"]
    images = Images(shape["num_classes"], shape["size"], tuple(shape["mean"]), tuple(shape["std"]))
    model = models.build(from_dict(Model, content["model"]), images, seed=0)
    load_weights(model.network, path)
    return model


def load_model(path: Path, model: Model, images: Images) -> ImageModel:
    """`model` with the weights of any .safetensors or .pth. Raises ConfigError when they do not fit."""
    network = models.build(model, images, seed=0)
    load_weights(network.network, path)
    return network
