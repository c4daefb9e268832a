"""RandAugment (Cubuk et al. 2019, arXiv:1909.13719): operations drawn anew for each image, all of one magnitude.

    operation = one of 14, equally likely        sign = + or -, equally likely, of those that have a direction

Strength grows in proportion to the magnitude, up to 30, as in torchvision: shear 0.3, translation 150/331 of the side,
rotation 30 degrees, brightness, colour, contrast and sharpness 1 +- 0.9, posterize 8 to 4 bits, solarize from 255 to 0.

Shapes: k images [k, H, W, 3].
"""

from collections.abc import Callable, Sequence
from math import cos, radians, sin

import torch
from torch import Tensor

from raykd.data import image_operations as pictures
from raykd.data.augmentation import MAX_MAGNITUDE
from raykd.data.counter_rng import OPERATION, hash64, uniform_int

# A code is 2 * the operation's place here, + 1 for its negative.
OPERATIONS = (
    "identity",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    "brightness",
    "color",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "autocontrast",
    "equalize",
)
_GEOMETRY = range(1, 6)
_NEARLY = 1e-9  # of a pixel: below the places' own rounding, above that of a processor's sine


class RandAugment:
    """`count` operations an image at `magnitude`, 0 to 30, on images of height x width on `device`."""

    def __init__(self, count: int, magnitude: int, height: int, width: int, device: torch.device | str) -> None:
        self._count, self._share = count, magnitude / MAX_MAGNITUDE
        self._sources = _sources(self._share, height, width).to(device)
        self._bits, self._threshold = 8 - round(4 * self._share), 255 * (1 - self._share)
        self._blends: dict[int, Callable[[Tensor], Tensor]] = {
            OPERATIONS.index("brightness"): pictures.black,
            OPERATIONS.index("color"): pictures.grey,
            OPERATIONS.index("contrast"): pictures.mean_grey,
            OPERATIONS.index("sharpness"): pictures.smoothed,
        }
        self._tables: dict[int, Callable[[Tensor], Tensor]] = {
            OPERATIONS.index("posterize"): lambda images: pictures.posterized(images, self._bits),
            OPERATIONS.index("solarize"): lambda images: pictures.solarized(images, self._threshold),
            OPERATIONS.index("autocontrast"): pictures.autocontrasted,
            OPERATIONS.index("equalize"): pictures.equalized,
        }

    def draw(self, keys: Tensor) -> tuple[Tensor, ...]:
        """(codes, the same on the CPU), int64 [count, *keys.shape].

        Twice, since the CPU has to know which images to gather: asked at every step, it would wait for the GPU.
        """
        slot = torch.arange(self._count, device=keys.device).view(-1, *[1] * keys.dim())
        codes = uniform_int(hash64(OPERATION, keys, slot), 2 * len(OPERATIONS))
        return codes, codes.cpu()

    def apply(self, pixels: Tensor, draws: Sequence[Tensor]) -> Tensor:
        """uint8 [k, H, W, 3] after the operations of codes [count, k], the first first; pixels are overwritten."""
        for of_device, of_cpu in zip(*draws, strict=True):
            operation = of_cpu // 2
            moves = (operation >= _GEOMETRY.start) & (operation < _GEOMETRY.stop)
            _change(pixels, moves, of_device, lambda images, code: pictures.moved(images, self._sources[code]))
            for number in (*self._blends, *self._tables):
                _change(pixels, operation == number, of_device, self._function(number))
        return pixels

    def _function(self, number: int) -> Callable[[Tensor, Tensor], Tensor]:
        """(images, their codes) -> images."""
        if number in self._tables:
            return lambda images, code: self._tables[number](images)
        degenerate = self._blends[number]
        return lambda images, code: pictures.blended(images, degenerate(images), self._factor(code))

    def _factor(self, code: Tensor) -> Tensor:
        return torch.where(code % 2 == 1, 1 - 0.9 * self._share, 1 + 0.9 * self._share).float()


def _change(pixels: Tensor, chosen: Tensor, codes: Tensor, function: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Overwrite the images `chosen`, bool [k] on the CPU, with what `function` makes of them."""
    where = chosen.nonzero().flatten().to(pixels.device, non_blocking=True)
    if len(where):
        pixels.index_copy_(0, where, function(pixels.index_select(0, where), codes.index_select(0, where)))


def _sources(share: float, height: int, width: int) -> Tensor:
    """Where each pixel comes from by code, int64 [2 * 6, H * W], row * W + column, -1 from outside.

    Shears are about the upper left corner, rotations about the middle; coordinates are of pixels' centres.
    """
    row, column = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    row, column, found = row.double(), column.double(), [torch.arange(height * width)] * 2
    for number in _GEOMETRY:
        for sign in (1, -1):
            x, y = _place(OPERATIONS[number], sign * share, column, row, width, height)
            x, y = (x + _NEARLY).floor().long(), (y + _NEARLY).floor().long()
            is_inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            found.append(torch.where(is_inside, y * width + x, -1).flatten())
    return torch.stack(found)


def _place(name: str, share: float, x: Tensor, y: Tensor, width: int, height: int) -> tuple[Tensor, Tensor]:
    """Where pixel (x, y) of the result comes from."""
    if name == "shear_x":
        return x + 0.3 * share * y, y
    if name == "shear_y":
        return x, y + 0.3 * share * x
    if name == "translate_x":
        return x - int(150 / 331 * width * share), y
    if name == "translate_y":
        return x, y - int(150 / 331 * height * share)
    angle = radians(30 * share)
    across, down = x - width / 2, y - height / 2
    return cos(angle) * across - sin(angle) * down + width / 2, sin(angle) * across + cos(angle) * down + height / 2
