"""RandAugment (Cubuk et al. 2019, arXiv:1909.13719): random operations for each image, all of one magnitude.

    operation = one of 14, equally likely        sign = + or -, equally likely, for operations with a direction

Strength grows in proportion to the magnitude, up to 30, as in torchvision: shear 0.3, translation 150/331 of the side,
rotation 30 degrees, brightness, color, contrast and sharpness 1 +- 0.9, posterize 8 to 4 bits, solarize from 255 to 0.

Shapes: k images [k, H, W, 3].
"""

from collections.abc import Callable, Sequence
from functools import partial
from math import cos, radians, sin

import torch
from torch import Tensor

from raykd.data import image_operations
from raykd.data.augmentation import MAX_MAGNITUDE
from raykd.data.counter_rng import OPERATION, hash64, uniform_int

_GEOMETRIC = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
_DEGENERATES = {
    "brightness": image_operations.black,
    "color": image_operations.gray,
    "contrast": image_operations.mean_gray,
    "sharpness": image_operations.smooth,
}
# The code of an operation is 2 * its index, + 1 for its negative.
OPERATIONS = ("identity", *_GEOMETRIC, *_DEGENERATES, "posterize", "solarize", "autocontrast", "equalize")
_Function = Callable[[Tensor, Tensor], Tensor]  # images, codes -> images
_ROUNDING = 1e-9  # pixels: above the rounding error of any processor's sine, so that all select the same pixel


class RandAugment:
    """`count` operations per image at `magnitude`, 0 to 30, on images of height x width on `device`."""

    def __init__(self, count: int, magnitude: int, height: int, width: int, device: torch.device | str) -> None:
        self._count, self._strength = count, magnitude / MAX_MAGNITUDE
        self._sources = _sources(self._strength, height, width).to(device)
        bits, threshold = 8 - round(4 * self._strength), 255 * (1 - self._strength)
        functions: dict[str, _Function] = {
            "identity": lambda images, _: images,
            **dict.fromkeys(_GEOMETRIC, self._transform),
            **{name: partial(self._blend, degenerate) for name, degenerate in _DEGENERATES.items()},
            "posterize": lambda images, _: image_operations.posterize(images, bits),
            "solarize": lambda images, _: image_operations.solarize(images, threshold),
            "autocontrast": lambda images, _: image_operations.autocontrast(images),
            "equalize": lambda images, _: image_operations.equalize(images),
        }
        self._functions = list(dict.fromkeys(functions.values()))
        # The number of the function of each code, on the CPU and on the device.
        self._numbers = torch.tensor([self._functions.index(functions[name]) for name in OPERATIONS for _ in (1, -1)])
        self._numbers_on_device = self._numbers.to(device)

    def draw(self, keys: Tensor) -> tuple[Tensor, ...]:
        """Draw (codes, codes on the CPU), int64 [count, *keys.shape].

        The CPU requires the number of images that each operation changes. A copy at every step would wait for the GPU.
        """
        slot = torch.arange(self._count, device=keys.device).view(-1, *[1] * keys.dim())
        codes = uniform_int(hash64(OPERATION, keys, slot), 2 * len(OPERATIONS))
        return codes, codes.cpu()

    def apply(self, pixels: Tensor, draws: Sequence[Tensor]) -> Tensor:
        """Apply the operations with codes [count, k], in order, to uint8 [k, H, W, 3], which are overwritten.

        The device sorts the images by function, and the CPU counts them, so that nothing is copied between them.
        """
        for codes, codes_on_cpu in zip(*draws, strict=True):
            order = self._numbers_on_device[codes].argsort()
            counts = self._numbers[codes_on_cpu].bincount(minlength=len(self._functions)).tolist()
            for function, chosen in zip(self._functions[1:], order.split(counts)[1:], strict=True):  # without identity
                if len(chosen):
                    changed = function(pixels.index_select(0, chosen), codes.index_select(0, chosen))
                    pixels.index_copy_(0, chosen, changed)
        return pixels

    def _transform(self, images: Tensor, codes: Tensor) -> Tensor:
        return image_operations.transform(images, self._sources[codes])

    def _blend(self, degenerate: Callable[[Tensor], Tensor], images: Tensor, codes: Tensor) -> Tensor:
        factor = torch.where(codes % 2 == 1, 1 - 0.9 * self._strength, 1 + 0.9 * self._strength).float()
        return image_operations.blend(images, degenerate(images), factor)


def _sources(strength: float, height: int, width: int) -> Tensor:
    """Return the source of each pixel by code, int64 [2 * 6, H * W]: row * W + column, -1 if it is outside.

    Shears keep the upper left corner, rotations the center; coordinates are those of the pixels' centers.
    """
    row, column = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    row, column, sources = row.double(), column.double(), [torch.arange(height * width)] * 2
    for name in _GEOMETRIC:
        for sign in (1, -1):
            x, y = _source(name, sign * strength, column, row, width, height)
            x, y = (x + _ROUNDING).floor().long(), (y + _ROUNDING).floor().long()
            is_inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            sources.append(torch.where(is_inside, y * width + x, -1).flatten())
    return torch.stack(sources)


def _source(name: str, strength: float, x: Tensor, y: Tensor, width: int, height: int) -> tuple[Tensor, Tensor]:
    """Return the source of pixel (x, y). strength: signed, -1 to 1."""
    if name == "shear_x":
        return x + 0.3 * strength * y, y
    if name == "shear_y":
        return x, y + 0.3 * strength * x
    if name == "translate_x":
        return x - int(150 / 331 * width * strength), y
    if name == "translate_y":
        return x, y - int(150 / 331 * height * strength)
    angle = radians(30 * strength)
    across, down = x - width / 2, y - height / 2
    return cos(angle) * across - sin(angle) * down + width / 2, sin(angle) * across + cos(angle) * down + height / 2
