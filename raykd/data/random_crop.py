"""A random box of an image, resized to the whole (Szegedy et al. 2014, arXiv:1409.4842, sec. 6).

    area   = uniform(least_area, 1) * H * W         aspect = exp(uniform(log 3/4, log 4/3))
    height = round(sqrt(area / aspect))             width  = round(sqrt(area * aspect))

The first of 10 boxes that fits is taken, else the whole image; its place is uniform. It is resized bilinearly, with
weights in steps of 1/256 and each of the two passes rounded to whole grey levels, as Pillow rounds them: products and
sums are then exact in float32, so every device gives the same pixels.

Shapes: k images [k, H, W, 3].
"""

from collections.abc import Sequence
from math import log

import torch
from torch import Tensor

from raykd.data.counter_rng import CROP, hash64, uniform, uniform_int

ATTEMPTS = 10
MOST_ASPECT = 4 / 3  # and the least is its inverse
_STEPS = 256  # of a weight


class RandomCrop:
    """Crops of at least `least_area` of images of height x width, a share in (0, 1]."""

    def __init__(self, least_area: float, height: int, width: int) -> None:
        self._least_area, self._height, self._width = least_area, height, width

    def draw(self, keys: Tensor) -> tuple[Tensor, ...]:
        """(top, left, height, width) of each key's box, int64 of its shape."""
        attempt = torch.arange(ATTEMPTS, device=keys.device).view(-1, *[1] * keys.dim())
        share = self._least_area + (1 - self._least_area) * uniform(hash64(CROP, keys, attempt, 0))
        area = share * (self._height * self._width)
        aspect = ((2 * uniform(hash64(CROP, keys, attempt, 1)) - 1) * log(MOST_ASPECT)).exp()
        height, width = ((area / aspect).sqrt().round().long(), (area * aspect).sqrt().round().long())
        fits = (height >= 1) & (height <= self._height) & (width >= 1) & (width <= self._width)
        first = fits.int().argmax(0, keepdim=True)
        found = fits.any(0)
        height = torch.where(found, height.gather(0, first)[0], self._height)
        width = torch.where(found, width.gather(0, first)[0], self._width)
        top = uniform_int(hash64(CROP, keys, ATTEMPTS, 0), self._height - height + 1)
        left = uniform_int(hash64(CROP, keys, ATTEMPTS, 1), self._width - width + 1)
        return top, left, height, width

    def apply(self, pixels: Tensor, draws: Sequence[Tensor]) -> Tensor:
        """uint8 [k, H, W, 3] cut to the boxes that were drawn, int64 [k] each, and resized to H x W."""
        top, left, height, width = draws
        num_images = len(pixels)
        rows = _weights(top, height, self._height)
        columns = _weights(left, width, self._width)
        tall = _rounded(torch.bmm(rows, pixels.float().view(num_images, self._height, -1)))
        sideways = tall.view(num_images, self._height, self._width, 3).transpose(1, 2)  # [k, W, H, 3]
        whole = _rounded(torch.bmm(columns, sideways.reshape(num_images, self._width, -1)))
        return whole.view(num_images, self._width, self._height, 3).transpose(1, 2).to(torch.uint8).contiguous()


def _weights(start: Tensor, size: Tensor, length: int) -> Tensor:
    """How much of each pixel of a line goes into each resized one: float32 [k, length, length], rows add up to 1.

    The centre of resized pixel x lies at (x + 1/2) * size / length - 1/2 of the box; what is beyond its edge repeats
    the edge. In whole numbers of 1 / (2 * length), so that no rounding decides.
    """
    unit = 2 * length
    place = (2 * torch.arange(length, device=start.device) + 1) * size[:, None] - length
    place = torch.minimum(place.clamp(min=0), (size[:, None] - 1) * unit)
    low = place // unit
    weight = ((place % unit * _STEPS + length) // unit).float() / _STEPS
    high = torch.minimum(low + 1, size[:, None] - 1)
    weights = torch.zeros(len(start), length, length, device=start.device)
    weights.scatter_add_(2, (start[:, None] + low)[..., None], (1 - weight)[..., None])
    return weights.scatter_add_(2, (start[:, None] + high)[..., None], weight[..., None])


def _rounded(pixels: Tensor) -> Tensor:
    return (pixels + 0.5).floor()
