"""Models by name, such as `find("resnet8")` and `find("timm:convnext_atto")`, and networks from them by `build`."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from raykd.config import Config
from raykd.errors import ConfigError, did_you_mean
from raykd.models.model import ImageModel, ImageSpec, Model
from raykd.models.resnet_cifar import ResNet
from raykd.models.timm_model import Timm
from raykd.models.vit_cifar import ViT

# Created on demand: Timm looks its name up in timm, which takes 2 s to import.
MODELS: dict[str, Callable[[], Model]] = {
    "resnet18": partial(ResNet, blocks=(2, 2, 2, 2)),
    "resnet8": partial(ResNet, blocks=(1, 1, 1, 1)),
    "vit_tiny": partial(Timm, "vit_tiny_patch16_224", input_size=224, weights="pretrained"),
    "vit6": partial(ViT, depth=6),
}


def find(model: Model | str) -> Model:
    """Return the model called `model`; a Model is returned as it is. Raises: ConfigError with the nearest name."""
    if isinstance(model, Config):
        return model
    if model.startswith("timm:"):
        return Timm(model.removeprefix("timm:"))
    if model not in MODELS:
        nearest = did_you_mean(model, MODELS, numbered=True)
        raise ConfigError(f"unknown model '{model}': known are {', '.join(MODELS)} and timm:<name>{nearest}")
    return MODELS[model]()


class _NoRandomValues(TorchFunctionMode):
    """Leaves tensors as they are instead of drawing values for them; on "meta", torch loads its compiler for that."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping | None = None
    ) -> Any:
        if func in (torch.Tensor.normal_, torch.Tensor.uniform_):
            return args[0]
        return func(*args, **(kwargs or {}))


def num_parameters(model: Model, images: ImageSpec) -> int | None:
    """Count the network's parameters without allocating them; None if it cannot be built without memory."""
    try:
        with torch.device("meta"), _NoRandomValues():
            return sum(weight.numel() for weight in model.build(images).network.parameters())
    except (RuntimeError, NotImplementedError):  # a few of timm's networks read values while they are built
        return None


def build(model: Model, images: ImageSpec, seed: int) -> ImageModel:
    """Build a network on the CPU whose random weights depend on `seed` alone, not on torch's global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return model.build(images)
