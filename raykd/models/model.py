"""A model as data (`Model`) and as a network that takes raw views and returns Outputs (`ImageModel`)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raykd.config import Config
from raykd.errors import ConfigError
from raykd.outputs import Outputs

MAX_WIDTH = 65_536  # channels
MAX_DEPTH = 200  # layers, or blocks of a stage: a ResNet-1202 has 200
MAX_SIDE = 1024  # pixels of an image's side
Read = Callable[[nn.Module, Tensor], Outputs]  # a network and normalised pixels [B, 3, H, W] -> Outputs


@dataclass(frozen=True)
class ImageSpec:
    """What a network must know of the data: classes, side in pixels, mean and std per channel in [0, 1]."""

    num_classes: int
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True)
class Model(Config):
    """Base of the models' configurations. `weights` of a subclass may name a file; '' starts from scratch."""

    kind: ClassVar[str] = "config"

    @property
    def label(self) -> str:
        """Short name for folders and tables, such as 'resnet8' or 'resnet18-w16'."""
        raise NotImplementedError

    @property
    def has_distillation_token(self) -> bool:
        """Whether its Outputs have `heads`."""
        return False

    def input_spec(self, images: ImageSpec) -> ImageSpec:
        """`images` with the mean and std that `build` normalizes by: the data's, unless a subclass has its own."""
        return images

    def build(self, images: ImageSpec) -> "ImageModel":
        """A network with fresh weights from torch's global generator. Raises ConfigError where sizes disagree."""
        raise NotImplementedError


class ImageModel(nn.Module):
    """uint8 or float views [B, 3, H, W] in 0..255 -> Outputs. Weights on disk are those of `network` alone.

    A model that wants another size or other statistics than the data's does that here, on the device, so that
    teacher and student are always given the same view (timm's models want their own mean, std and 224 pixels).

    with_features: whether `features` are asked for, which a training does where its method reads them: they keep
    memory, and some networks copy them. A ResNet, which has them for nothing, gives them always.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        read: Read,
        images: ImageSpec,
        input_size: int | None = None,
        mode: str = "bicubic",
        read_features: Read | None = None,
    ) -> None:
        """read_features: the same outputs as of `read`, and `features`; None where `read` gives all that there is."""
        super().__init__()
        self.network = network
        self._read, self._read_features = read, read_features or read
        self.with_features = False
        self.input_size = input_size if input_size != images.size else None
        self.mode = mode
        scale = 255.0
        self.register_buffer("mean", torch.tensor(images.mean).mul(scale).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(images.std).mul(scale).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Outputs:
        return self.forward_normalized((images.float() - self.mean) / self.std)

    def forward_normalized(self, pixels: Tensor) -> Outputs:
        """The same for pixels [B, 3, H, W] that are normalised already."""
        if self.input_size is not None:
            # Resizing after the normalisation gives the same as before it: both are affine in the pixels.
            pixels = F.interpolate(pixels, size=(self.input_size, self.input_size), mode=self.mode, antialias=False)
        read = self._read_features if self.with_features else self._read
        return read(self.network, pixels)

    @torch.no_grad()
    def require_size(self, size: int, label: str) -> None:
        """Raise ConfigError when images of `size` pixels do not go through: many networks only tell when they run."""
        was_training = self.training
        self.eval()
        try:
            self(torch.zeros(1, 3, size, size, dtype=torch.uint8))
        except (RuntimeError, ValueError, IndexError, AssertionError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ConfigError(
                f"model '{label}' cannot take images of {size}x{size}: {reason}; name another model or data.image_size"
            ) from None
        finally:
            self.train(was_training)
