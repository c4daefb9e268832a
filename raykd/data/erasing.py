"""Random erasing: a random box of some images is replaced by noise or by the mean color (arXiv:1708.04896).

    is_erased = uniform() < probability         box: 2 % to 1/3 of the area, aspect ratio 0.3 to 1/0.3 (boxes.py)
    noise     = mean + std * normal()           for each pixel and channel, rounded and clipped to 0 .. 255

The ranges are those of timm and of DeiT (Touvron et al. 2020, arXiv:2012.12877), and the noise is standard normal after
normalization by the data's mean and std. The mean color is 0 then. An image stays as it is if none of 10 boxes fits.

The noise of a box is read from a fixed sequence of noise pixels, from a random position on. So a step draws no normal
numbers, and all devices read the same bytes.

Shapes: k images [k, H, W, 3].
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from raykd.data.boxes import BoxShape, covered_bytes
from raykd.data.counter_rng import ERASE, NOISE, hash64, uniform, uniform_int

SHAPE = BoxShape(min_area=0.02, max_area=1 / 3, max_aspect=1 / 0.3)
NUM_STARTS = 1 << 20  # pixels at which the noise of an image may begin
_LEVELS = 1 << 16  # quantiles of the normal distribution
_IS_ERASED, _START = 0, 1  # counters after the key


class Erasing:
    """Erases a box of images of height x width with this probability.

    mean, std: of the training pixels by channel, as fractions of 255. has_noise: whether the box is filled with noise,
    and not with the mean color.
    """

    def __init__(
        self,
        probability: float,
        has_noise: bool,
        height: int,
        width: int,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device | str,
    ) -> None:
        self._probability, self._height, self._width = probability, height, width
        self._length = 3 * height * width  # bytes of an image
        fill = noise(NUM_STARTS + height * width, mean, std) if has_noise else _levels(torch.zeros(1, 1), mean, std)
        self._fill, self._has_noise = fill.flatten().to(device), has_noise

    def draw(self, keys: Tensor) -> tuple[Tensor, ...]:
        """Draw (top, bottom, left, right) of each box, and where its noise begins, int64 in the shape of `keys`.

        The box of an image that is not erased has no rows.
        """
        top, left, height, width, fits = SHAPE.draw(ERASE, keys, self._height, self._width)
        is_erased = fits & (uniform(hash64(NOISE, keys, _IS_ERASED)) < self._probability)
        bottom = torch.where(is_erased, top + height, top)
        return top, bottom, left, left + width, uniform_int(hash64(NOISE, keys, _START), NUM_STARTS)

    def apply(self, pixels: Tensor, draws: Sequence[Tensor]) -> Tensor:
        """Return uint8 [k, H, W, 3] with the drawn boxes filled."""
        *edges, start = draws
        covered = covered_bytes(edges, self._height, self._width)
        return torch.where(covered, self._fill_of(start), pixels.flatten(2)).view_as(pixels)

    def _fill_of(self, start: Tensor) -> Tensor:
        """Return the bytes that replace those of the images, uint8 [k, H, 3 W], or [3 W] if all are the mean color."""
        if not self._has_noise:
            return self._fill.repeat(self._width)
        parts = self._fill.as_strided((NUM_STARTS, self._length), (3, 1))  # overlapping, without a copy
        return parts.index_select(0, start).view(-1, self._height, 3 * self._width)


def noise(num_pixels: int, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return pixels of noise, uint8 [num_pixels, 3]: normal with `mean` and `std`, fractions of 255 by channel."""
    quantiles = torch.special.ndtri((torch.arange(_LEVELS).double() + 0.5) / _LEVELS)
    levels = _levels(quantiles[:, None], mean, std)  # [_LEVELS, 3]
    bits = hash64(NOISE, torch.arange(num_pixels))
    chosen = torch.stack([(bits >> places) & (_LEVELS - 1) for places in (16, 32, 48)], dim=1)
    return levels.gather(0, chosen)


def _levels(normal: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return mean + std * normal as gray levels, uint8 [n, 3]. normal: [n, 1]."""
    values = torch.tensor([*mean], dtype=torch.float64) + torch.tensor([*std], dtype=torch.float64) * normal
    return (255 * values).round().clamp(0, 255).to(torch.uint8)
