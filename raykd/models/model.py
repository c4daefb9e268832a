"""A model's configuration (`Model`), and a network from uint8 images to Outputs (`ImageModel`)."""

import re
import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin

from raykd.config import Config, Interval, skip_if_default
from raykd.errors import ConfigError
from raykd.outputs import Outputs

MAX_WIDTH = 65_536  # channels
MAX_DEPTH = 200  # layers, or blocks per stage: a ResNet-1202 has 200
MAX_SIDE = 1024  # pixels per side of an image
MAX_LABEL = 60
ForwardFunction = Callable[[nn.Module, Tensor], Outputs]  # (network, normalized pixels [B, 3, H, W]) -> Outputs

Construction = tuple[type[nn.Module], dict[str, Any]]  # a network's class, and the arguments of its __init__


def has_shapes_only() -> bool:
    """Return whether new tensors have shapes but no values, as in registry.py's `without_values`.

    torch.get_default_device() of torch 2.7 does not know the device of a `with torch.device(...)`.
    """
    return torch.empty(0).is_meta


def forward_network(network: nn.Module, pixels: Tensor) -> Outputs:
    """Run a network whose `forward` returns Outputs itself, feature maps included."""
    return network(pixels)


def forward_preactivations(network: nn.Module, pixels: Tensor) -> Outputs:
    """Run a network of this package. Its feature maps are those before each stage's last ReLU."""
    return network(pixels, preactivations=True)


@dataclass(frozen=True)
class ImageSpec:
    """The data's properties that a network depends on: classes, pixels per side, mean and std by channel in [0, 1]."""

    num_classes: int
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True)
class Model(Config):
    """Base of the models' configurations. A subclass may have `weights`: a file, or '' to start from scratch."""

    _: KW_ONLY  # subclasses have positional fields
    # mean of each channel, as a fraction of 255; () for that of the pretrained weights, else the data's
    mean: tuple[float, ...] = skip_if_default(())
    # standard deviation of each channel, as a fraction of 255; () for that of the pretrained weights, else the data's
    std: tuple[float, ...] = skip_if_default(())
    # pixels per side, to which views are resized on the device; 0 for the data's size
    input_size: Annotated[int, Interval(f"[0, {MAX_SIDE}]")] = skip_if_default(0)
    # whether the network computes logits; if not, it is built for 0 classes, as in timm, and returns logits [B, 0]
    classifier: bool = skip_if_default(True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_input()

    def _check_input(self) -> None:
        for name, low in (("mean", "from 0"), ("std", "above 0")):
            values = getattr(self, name)
            is_in_range = all(0 <= value <= 1 and (value > 0 or name == "mean") for value in values)
            requirement = f"must be three numbers, one per channel, {low} up to 1: divide pixel values by 255"
            self.require(len(values) in (0, 3) and is_in_range, name, requirement)
        self.require(bool(self.mean) == bool(self.std), "mean" if self.mean else "std", "requires both mean and std")

    @property
    def label(self) -> str:
        """A short name for folders and tables, such as 'resnet8' or 'resnet18-w16'."""
        raise NotImplementedError

    @property
    def is_vit(self) -> bool:
        """Whether the network is known to be a ViT."""
        return False

    @property
    def has_distillation_token(self) -> bool:
        """Whether the network's Outputs have `heads`."""
        return False

    def input_spec(self, images: ImageSpec) -> ImageSpec:
        """Return `images` with the mean and std that the network normalizes by."""
        if not self.mean:
            return self.pretrained_spec(images)
        return replace(images, mean=self.mean, std=self.std)  # pyright: ignore[reportArgumentType] - three values

    def pretrained_spec(self, images: ImageSpec) -> ImageSpec:
        """Return `images` with the mean and std of the pretrained weights; the data's if there are none."""
        return images

    def adapt_state(self, network: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the state dict of any file in the form that `network` requires. It is called without a classifier."""
        return state

    def download(self) -> nn.Module:
        """Download the network with its pretrained weights; only `prefetch` calls it."""
        raise ConfigError(f"model {self.label} has no pretrained weights; give a file")

    def build(self, images: ImageSpec) -> "ImageModel":
        """Build a network for `images`, with weights from torch's global generator.

        It normalizes by `input_spec`, and resizes to `input_size`. Raises ConfigError for an impossible size.
        """
        size = self.network_size(images)
        num_classes = images.num_classes if self.classifier else 0
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Initializing zero-element tensors")  # torch's, for layers for 0 classes
            model = self.make(replace(self.input_spec(images), size=size, num_classes=num_classes))
        for name, module in model.network.named_modules():
            if isinstance(module, LazyModuleMixin) and module.has_uninitialized_params():  # type: ignore[misc]
                raise ConfigError(
                    f"model {self.label}: its layer '{name}' is a {type(module).__name__}, whose width is not known "
                    "before the first image; give it its number of inputs"
                )
        self._require_loadable(model.network)
        model.input_size = size if size != images.size else None
        for parameter in model.network.parameters():
            if not parameter.numel():  # in a layer for 0 classes, which no gradient reaches
                parameter.requires_grad_(False)
        return model

    def _require_loadable(self, network: nn.Module) -> None:
        """Raise ConfigError if the network's state cannot be saved or loaded, before a run is trained with it."""
        for name, value in network.state_dict().items():
            if not isinstance(value, Tensor):
                raise ConfigError(
                    f"model {self.label}: its state '{name}' is of type {type(value).__name__}, and only tensors can "
                    "be saved; remove get_extra_state(), or register a buffer instead"
                )
            strides = value.stride() if value.layout is torch.strided else value.shape
            if any(size > 1 and not stride for size, stride in zip(value.shape, strides, strict=True)):
                raise ConfigError(
                    f"model {self.label}: '{name}' is the result of expand(), into which no weights can be loaded; "
                    "register expand(...).clone()"
                )

    def network_size(self, images: ImageSpec) -> int:
        """Return the pixels per side of the network's images: `input_size`, else the data's size."""
        return self.input_size or images.size

    def pretrained_file(self, weights_folder: Path) -> Path:
        """Return the file of the pretrained weights, which may not exist.

        weights_folder: where `prefetch` stores them.
        """
        return weights_folder / f"{self.label}.safetensors"

    def make(self, images: ImageSpec) -> "ImageModel":
        """Return a network for images of this size and normalization; `build` calls it."""
        raise NotImplementedError


@dataclass(frozen=True)
class BuiltInModel(Model):
    """Base of models whose network is a class of this package, with a `forward` that returns Outputs."""

    has_preactivations: ClassVar[bool] = False  # whether `forward` has the argument `preactivations`

    def construction(self, num_classes: int) -> Construction:
        """Return the network's class and the arguments of its `__init__`."""
        raise NotImplementedError

    def make(self, images: ImageSpec) -> "ImageModel":
        network_class, arguments = self.construction(images.num_classes)
        preactivations = forward_preactivations if self.has_preactivations else None
        return ImageModel(network_class(**arguments), forward_network, images, forward_preactivations=preactivations)


def names_vit(name: str) -> bool:
    """Return whether the name of an architecture, by which timm, torchvision and transformers list it, is a ViT's."""
    return "vit" in name or "deit" in name


def label_of(text: str) -> str:
    """Return `text` as a label for folder names: with a-z, 0-9, '_', '.' and '-', and at most MAX_LABEL characters."""
    return re.sub(r"[^a-z0-9_.-]+", "_", text.lower())[:MAX_LABEL].rstrip("_.-")


def _per_channel(fractions: Sequence[float]) -> Tensor:
    """Return 255 times `fractions`, float32 [1, 3, 1, 1]."""
    # NumPy multiplies: on the device "meta", torch would first load its compiler, which takes 2 s.
    return torch.tensor(np.asarray(fractions, np.float32) * np.float32(255)).view(1, 3, 1, 1)


def heads_of(network: nn.Module) -> list[nn.Module]:
    """Return the layers from `get_classifier`, a method of timm's networks and those of this package; [] without it."""
    if not hasattr(network, "get_classifier"):
        return []
    classifier: Any = network.get_classifier()  # type: ignore[operator]
    several = isinstance(classifier, tuple | list | nn.ModuleList)
    return [head for head in (classifier if several else [classifier]) if isinstance(head, nn.Module)]


class ImageModel(nn.Module):
    """A network from uint8 or float images [B, 3, H, W] in 0..255 to Outputs. Files store `network` alone.

    Normalization and resizing happen here, on the device, so that teacher and student always receive the same view,
    although each of timm's pretrained models requires a specific mean, std and size.

    with_features: whether Outputs have feature maps. They are requested only for methods that read them, because they
    take memory and some networks copy them. Networks of this package compute them anyway and always return them.
    with_preactivations: whether these are the maps before each stage's last ReLU, if the network has such maps.
    """

    mode: ClassVar[str] = "bicubic"  # an argument of F.interpolate
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        forward: ForwardFunction,
        images: ImageSpec,
        forward_features: ForwardFunction | None = None,
        forward_preactivations: ForwardFunction | None = None,
    ) -> None:
        """images: as the network receives them. `input_size`, set later, is None if they arrive in this size.

        forward_features: returns what `forward` returns, and feature maps; None if there is nothing to add.
        forward_preactivations: returns what `forward` returns, with other feature maps, those before each stage's last
        ReLU; None if the network has none.
        """
        super().__init__()
        self.network = network
        self._run_network, self._run_with_features = forward, forward_features or forward
        self._run_with_preactivations = forward_preactivations or self._run_with_features
        self.with_features = self.with_preactivations = False
        self.input_size: int | None = None
        self.register_buffer("mean", _per_channel(images.mean), persistent=False)
        self.register_buffer("std", _per_channel(images.std), persistent=False)

    def request(self, needs: Collection[str], preactivations: bool = False) -> None:
        """Compute the outputs in `needs` in all later passes: 'logits', 'embedding' and 'features' of a method.

        preactivations: whether feature maps are those before each stage's last ReLU, in evaluation mode. Networks
        without such maps, and those with unknown layers, return their usual ones.
        """
        self.with_features = "features" in needs
        self.with_preactivations = self.with_features and preactivations

    def heads(self) -> list[nn.Module]:
        """Return the layers that compute logits: two for a network with a distillation token, [] if unknown."""
        return heads_of(self.network)

    def forward(self, images: Tensor) -> Outputs:
        return self.forward_normalized((images.float() - self.mean) / self.std)

    def forward_normalized(self, pixels: Tensor) -> Outputs:
        """Return the Outputs of normalized pixels [B, 3, H, W]."""
        if self.input_size is not None:
            # Resizing commutes with normalization: both are affine in the pixels.
            pixels = F.interpolate(pixels, size=(self.input_size, self.input_size), mode=self.mode, antialias=False)
        return self.run(pixels)

    def run(self, pixels: Tensor) -> Outputs:
        """Return the Outputs of pixels that have the network's size."""
        if self.with_preactivations:
            return self._run_with_preactivations(self.network, pixels)
        run = self._run_with_features if self.with_features else self._run_network
        return run(self.network, pixels)

    @torch.no_grad()
    def require_size(self, size: int, label: str) -> None:
        """Run the network, because many fail only then. Raise ConfigError unless it accepts images of `size` pixels."""
        was_training = self.training
        self.eval()
        try:
            self(torch.zeros(1, 3, size, size, dtype=torch.uint8))
        except (RuntimeError, ValueError, IndexError, AssertionError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ConfigError(
                f"model '{label}' does not accept images of {self.input_size or size}x{self.input_size or size}: "
                f"{reason}; name another model, or set input_size of the model"
            ) from None
        finally:
            self.train(was_training)
