"""Random crops: a random box of an image, resized to its size (Szegedy et al. 2014, arXiv:1409.4842, sec. 6).

    area   = uniform(min_area, 1) * H * W         aspect = exp(uniform(log 3/4, log 4/3))

The box (boxes.py) is the whole image if none of 10 fits. It is resized bilinearly. The weights are multiples of 1/256,
and each of the two passes is rounded to gray levels, as in Pillow: products and sums are then exact in float32, so
every device computes the same pixels.

Shapes: k images [k, H, W, 3].
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from raykd.data.boxes import BoxShape
from raykd.data.counter_rng import CROP

_MAX_ASPECT = 4 / 3
_STEPS = 256  # weights are multiples of 1 / _STEPS


class RandomCrop:
    """Crops of at least `min_area`, a fraction in (0, 1], of images of height x width."""

    def __init__(self, min_area: float, height: int, width: int) -> None:
        self._shape, self._height, self._width = crop_shape(min_area), height, width

    def draw(self, keys: Tensor) -> tuple[Tensor, ...]:
        """Draw the boxes (top, left, height, width), int64 in the shape of `keys`."""
        return self._shape.draw(CROP, keys, self._height, self._width)[:4]

    def apply(self, pixels: Tensor, draws: Sequence[Tensor]) -> Tensor:
        """Crop uint8 [k, H, W, 3] to the drawn boxes, int64 [k] each, and resize them to H x W."""
        top, left, height, width = draws
        num_images = len(pixels)
        rows = _weights(top, height, self._height)
        columns = _weights(left, width, self._width)
        resized_rows = _rounded(torch.bmm(rows, pixels.float().view(num_images, self._height, -1)))
        transposed = resized_rows.view(num_images, self._height, self._width, 3).transpose(1, 2)  # [k, W, H, 3]
        resized = _rounded(torch.bmm(columns, transposed.reshape(num_images, self._width, -1)))
        return resized.view(num_images, self._width, self._height, 3).transpose(1, 2).to(torch.uint8).contiguous()


def crop_shape(min_area: float) -> BoxShape:
    """Return the distribution of crops that keep at least the fraction `min_area` of an image."""
    return BoxShape(min_area, 1.0, _MAX_ASPECT)


def _weights(start: Tensor, size: Tensor, length: int) -> Tensor:
    """Return the weight of each pixel of a line in each resized pixel: float32 [k, length, length], rows sum to 1.

    The center of resized pixel x is at (x + 1/2) * size / length - 1/2 of the box; beyond the edge, the edge pixel is
    repeated. Positions are integers in units of 1 / (2 * length), so that they are exact.
    """
    unit = 2 * length
    position = (2 * torch.arange(length, device=start.device) + 1) * size[:, None] - length
    position = torch.minimum(position.clamp(min=0), (size[:, None] - 1) * unit)
    low = position // unit
    weight = ((position % unit * _STEPS + length) // unit).float() / _STEPS
    high = torch.minimum(low + 1, size[:, None] - 1)
    weights = torch.zeros(len(start), length, length, device=start.device)
    weights.scatter_add_(2, (start[:, None] + low)[..., None], (1 - weight)[..., None])
    return weights.scatter_add_(2, (start[:, None] + high)[..., None], weight[..., None])


def _rounded(pixels: Tensor) -> Tensor:
    return (pixels + 0.5).floor()
