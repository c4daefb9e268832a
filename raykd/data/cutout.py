"""Cutout: one square of each image is masked (DeVries, Taylor 2017, arXiv:1708.04552).

The center is uniform over all pixels, so near an edge a part of the square lies outside and fewer than side^2 pixels
are masked. The color is the mean color, which is 0 after normalization: the paper masks normalized images with zeros.

Shapes: k images [k, H, W, 3].
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from raykd.data.boxes import covered_bytes
from raykd.data.counter_rng import CUTOUT, hash64, uniform_int


class Cutout:
    """Squares of side x side pixels in images of height x width, filled with the color `fill`, uint8 [3]."""

    def __init__(self, side: int, height: int, width: int, fill: Tensor) -> None:
        self._side, self._height, self._width, self._fill = side, height, width, fill

    def draw(self, keys: Tensor) -> tuple[Tensor, ...]:
        """Draw (row, column) of each center, int64 in the shape of `keys`."""
        return tuple(
            uniform_int(hash64(CUTOUT, keys, axis), length) for axis, length in enumerate((self._height, self._width))
        )

    def apply(self, pixels: Tensor, draws: Sequence[Tensor]) -> Tensor:
        """Return uint8 [k, H, W, 3] with squares around the drawn centers, int64 [k] each."""
        top, left = (center - self._side // 2 for center in draws)
        covered = covered_bytes((top, top + self._side, left, left + self._side), self._height, self._width)
        return torch.where(covered, self._fill.repeat(self._width), pixels.flatten(2)).view_as(pixels)
