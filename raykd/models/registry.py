"""Models by name, such as `find("resnet8")` and `find("timm:convnext_atto")`, and networks from them by `build`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, cast, get_args

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from raykd.config import custom_file
from raykd.errors import COMMAND, ConfigError, did_you_mean
from raykd.models.cifar_resnet50 import BottleneckResNet
from raykd.models.custom_network import Network
from raykd.models.four_stage_resnet import ResNet
from raykd.models.hf_files import PREFIX as HF_PREFIX
from raykd.models.hf_model import HuggingFace
from raykd.models.mobilenet_cifar import MobileNetV2
from raykd.models.model import ImageModel, ImageSpec, Model
from raykd.models.shufflenet_cifar import ShuffleNetV1, ShuffleNetV2
from raykd.models.three_stage_resnet import CifarResNet
from raykd.models.timm_model import Timm
from raykd.models.torchvision_model import Torchvision
from raykd.models.vgg_cifar import VGG, Depth
from raykd.models.vit_cifar import ViT
from raykd.models.wide_resnet import WideResNet

# Created on demand: Timm looks its name up in timm, which takes 2 s to import.
MODELS: dict[str, Callable[[], Model]] = {
    "resnet18": partial(ResNet, blocks=(2, 2, 2, 2)),
    "resnet8": partial(ResNet, blocks=(1, 1, 1, 1)),
    "vit_tiny": partial(Timm, "vit_tiny_patch16_224", input_size=224, weights="pretrained"),
    "vit6": partial(ViT, depth=6),
    # The networks of the CIFAR-100 tables of distillation papers.
    **{f"cifar_resnet{depth}": partial(CifarResNet, depth) for depth in (8, 14, 20, 32, 44, 56, 110)},
    **{f"cifar_resnet{depth}x4": partial(CifarResNet, depth, width=64, stem=32) for depth in (8, 32)},
    "cifar_resnet50": BottleneckResNet,
    **{f"wrn_{depth}_{factor}": partial(WideResNet, depth, factor) for depth in (16, 40) for factor in (1, 2)},
    **{f"vgg{depth}": partial(VGG, depth) for depth in get_args(Depth)},
    "mobilenet_v2": MobileNetV2,
    "shufflenet_v1": ShuffleNetV1,
    "shufflenet_v2": ShuffleNetV2,
}


def find(model: Any) -> Model:
    """Return the model that a name, 'my_net.py:MyNet' or a class stands for; a Model is returned as it is.

    Raises ConfigError, with the nearest name, for an unknown name; and for a network instead of its class.
    """
    if isinstance(model, nn.Module):
        name = type(model).__name__
        raise ConfigError(
            f"model = an object of class {name}: raykd creates networks itself, with the run's seed and the data's "
            f"classes; write Network('my_net.py:{name}', width=32) with the class's file and fields"
        )
    if isinstance(model, type) and issubclass(model, nn.Module):
        return Network(model)
    if not isinstance(model, str):
        return cast(Model, model)  # or a value that its field refuses
    if model.startswith(HF_PREFIX):  # before paths, which a folder's name may look like
        return HuggingFace(model)
    if custom_file.is_path(model):
        return Network(model)
    if model.startswith("timm:"):
        return Timm(model.removeprefix("timm:"))
    if model.startswith("torchvision:"):
        return Torchvision(model.removeprefix("torchvision:"))
    if model not in MODELS:
        nearest = did_you_mean(model, MODELS, numbered=True)
        raise ConfigError(
            f"unknown model '{model}'; `{COMMAND} models` lists the names; also timm:NAME, torchvision:NAME, "
            f"hf:FOLDER and a class in a file, my_net.py:MyNet{nearest}"
        )
    return MODELS[model]()


class _NoRandomValues(TorchFunctionMode):
    """Leave tensors as they are instead of drawing values for them; on "meta", torch loads its compiler for that."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping | None = None
    ) -> Any:
        if func in (torch.Tensor.normal_, torch.Tensor.uniform_):
            return args[0]
        if func is nn.init.normal_:  # it would call Tensor.normal_ outside of this mode
            return (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


@contextmanager
def without_values() -> Iterator[None]:
    """Build networks on the device "meta" inside the context: shapes without memory and without random values."""
    with torch.device("meta"), _NoRandomValues():
        yield


def num_parameters(model: Model, images: ImageSpec) -> int | None:
    """Count the network's parameters without allocating them; None if it cannot be built without memory."""
    try:
        with without_values():
            return sum(weight.numel() for weight in model.build(images).network.parameters())
    except (RuntimeError, NotImplementedError):  # a few of timm's networks read values while they are built
        return None


def build(model: Model, images: ImageSpec, seed: int) -> ImageModel:
    """Build a network on the CPU whose random weights depend on `seed` alone, not on torch's global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return model.build(images)
