"""A square of each image painted over (DeVries, Taylor 2017, arXiv:1708.04552).

Its centre is uniform over all pixels, so at the edges a part of it lies outside: what is covered is less than side^2,
and the image is never covered in the same places alone. The colour is the mean pixel, which a model that normalises
sees as 0: the paper masks with zeros after normalisation.

Shapes: k images [k, H, W, 3].
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from raykd.data.counter_rng import CUTOUT, hash64, uniform_int


class Cutout:
    """Squares of side x side in images of height x width, in the colour `fill`, uint8 [3]."""

    def __init__(self, side: int, height: int, width: int, fill: Tensor) -> None:
        self._side, self._height, self._width, self._fill = side, height, width, fill

    def draw(self, keys: Tensor) -> tuple[Tensor, ...]:
        """(row, column) of each key's centre, int64 of its shape."""
        return tuple(
            uniform_int(hash64(CUTOUT, keys, axis), length) for axis, length in enumerate((self._height, self._width))
        )

    def apply(self, pixels: Tensor, draws: Sequence[Tensor]) -> Tensor:
        """uint8 [k, H, W, 3] with squares about the centres that were drawn, int64 [k] each."""
        row, column = draws
        # A row is W * 3 neighbouring bytes: told so, torch takes several at a time.
        columns = self._reached(column, self._width).repeat_interleave(3, dim=1)
        covered = self._reached(row, self._height)[:, :, None] & columns[:, None, :]
        return torch.where(covered, self._fill.repeat(self._width), pixels.flatten(2)).view_as(pixels)

    def _reached(self, centre: Tensor, length: int) -> Tensor:
        """bool [k, length]: from centre - side // 2 on, `side` of them."""
        first = centre[:, None] - self._side // 2
        place = torch.arange(length, device=centre.device)
        return (place >= first) & (place < first + self._side)
