"""Boxes in images: drawn with a random area and aspect ratio, and which bytes of an image they cover.

    area   = uniform(min_area, max_area) * H * W     aspect = exp(uniform(-log max_aspect, log max_aspect))
    height = round(sqrt(area / aspect))              width  = round(sqrt(area * aspect))

The first of 10 boxes that fits is used; its position is uniform.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log

import torch
from torch import Tensor

from raykd.data.counter_rng import hash64, uniform, uniform_int

ATTEMPTS = 10


@dataclass(frozen=True)
class BoxShape:
    """The distribution of boxes. min_area, max_area: fractions of the image. The least aspect is 1 / max_aspect."""

    min_area: float
    max_area: float
    max_aspect: float

    def draw(
        self, stream: int, keys: Tensor, full_height: int | Tensor, full_width: int | Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Draw (top, left, height, width), int64 in the shape of `keys`, and bool for the boxes that fit.

        A box that does not fit is the whole image. full_height, full_width: the pixels of all images, or of each,
        int64 in the shape of `keys`.
        """
        attempt = torch.arange(ATTEMPTS, device=keys.device).view(-1, *[1] * keys.dim())
        fraction = self.min_area + (self.max_area - self.min_area) * uniform(hash64(stream, keys, attempt, 0))
        area = fraction * (full_height * full_width)
        aspect = ((2 * uniform(hash64(stream, keys, attempt, 1)) - 1) * log(self.max_aspect)).exp()
        height, width = (area / aspect).sqrt().round().long(), (area * aspect).sqrt().round().long()
        fits = (height >= 1) & (height <= full_height) & (width >= 1) & (width <= full_width)
        first = fits.int().argmax(0, keepdim=True)
        has_fit = fits.any(0)
        height = torch.where(has_fit, height.gather(0, first)[0], full_height)
        width = torch.where(has_fit, width.gather(0, first)[0], full_width)
        top = uniform_int(hash64(stream, keys, ATTEMPTS, 0), full_height - height + 1)
        left = uniform_int(hash64(stream, keys, ATTEMPTS, 1), full_width - width + 1)
        return top, left, height, width, has_fit


def covered_bytes(edges: Sequence[Tensor], height: int, width: int) -> Tensor:
    """Return bool [k, height, 3 * width]: True for rows top to bottom - 1 and columns left to right - 1.

    edges: top, bottom, left and right, int64 [k] each, which may lie outside of the image. A row of an image is
    3 * width contiguous bytes: as one dimension, torch processes several bytes at a time.
    """
    top, bottom, left, right = edges
    row = torch.arange(height, device=top.device)
    column = torch.arange(3 * width, device=top.device) // 3  # of each byte in a row
    is_row = (row >= top[:, None]) & (row < bottom[:, None])
    is_column = (column >= left[:, None]) & (column < right[:, None])
    return is_row[:, :, None] & is_column[:, None, :]
