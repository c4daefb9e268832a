"""Mixtures of two images: mixup (Zhang et al. 2017, arXiv:1710.09412), CutMix (Yun et al. 2019, arXiv:1905.04899).

    mixup    mixed = share * image + (1 - share) * partner          share = max(x, 1 - x),  x ~ Beta(alpha, alpha)
    cutmix   mixed = partner inside a box, image outside            (1 - x) H W is the box's area before clipping

The image's share of the mixture is at least 1/2, so the label and index of a mixed image are those of the image with
the larger share. The mixtures of mixup keep their distribution, because x and 1 - x are equally likely and any image
can be the partner. For CutMix, image and partner are swapped if the box covers more than half.

min(x, 1 - x) is one of 65,536 quantiles of its distribution, so the weights of mixup are multiples of 2^-16. A mixed
pixel is then exact in float32 before it is rounded (half up), and the same on every device.

Shapes: B images [B, H, W, 3] and as many partners.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from raykd.data.boxes import covered_bytes
from raykd.data.counter_rng import MIX, hash64, uniform_int

QUANTILES = 1 << 16
_GRID = (1 << 16) + 1  # points of the density's integration


class Mixing:
    """Draws the mixtures of a batch and applies them to images of height x width.

    mixup, cutmix: alpha of each technique, 0 to disable it; at least one is above 0.
    """

    def __init__(self, mixup: float, cutmix: float, height: int, width: int, device: torch.device | str) -> None:
        self._height, self._width = height, width
        self._mixup = smaller_shares(mixup).to(device) if mixup else None
        self._cutmix = smaller_shares(cutmix).to(device) if cutmix else None

    def draw(self, keys: Tensor) -> tuple[Tensor, ...]:
        """Draw (share, inside, outside, top, bottom, left, right), each in the shape of `keys`.

        share: float32, the image's share of the mixture. inside, outside: float32, the weight of the image in the box
        and around it. The box is int64, rows top to bottom - 1 and columns left to right - 1; for mixup it is empty.
        """
        quantile = uniform_int(hash64(MIX, keys, 0), QUANTILES)
        mixup = _without_box(1 - self._mixup[quantile]) if self._mixup is not None else ()
        cutmix = self._with_box(keys, self._cutmix[quantile]) if self._cutmix is not None else ()
        if not (mixup and cutmix):
            return mixup or cutmix
        is_mixup = uniform_int(hash64(MIX, keys, 1), 2) == 1
        return tuple(torch.where(is_mixup, one, other) for one, other in zip(mixup, cutmix, strict=True))

    def apply(self, images: Tensor, partners: Tensor, draws: Sequence[Tensor]) -> Tensor:
        """Mix images and partners, uint8 [B, H, W, 3] each, with the draws, [B] each."""
        _, inside, outside, *edges = draws
        is_inside = covered_bytes(edges, self._height, self._width)
        weight = torch.where(is_inside, inside[:, None, None], outside[:, None, None])
        mixed = torch.lerp(partners.flatten(2).float(), images.flatten(2).float(), weight)
        return mixed.add_(0.5).to(torch.uint8).view_as(images)

    def _with_box(self, keys: Tensor, smaller: Tensor) -> tuple[Tensor, ...]:
        is_large = uniform_int(hash64(MIX, keys, 2), 2) == 1
        area = torch.where(is_large, 1 - smaller, smaller).double()
        edges = []
        for axis, length in enumerate((self._height, self._width)):
            half = (length * area.sqrt()).long() // 2
            center = uniform_int(hash64(MIX, keys, 3 + axis), length)
            edges += [(center - half).clamp(min=0), (center + half).clamp(max=length)]
        top, bottom, left, right = edges
        covered = (bottom - top) * (right - left)
        inside = (2 * covered > self._height * self._width).float()
        share = covered.double() / (self._height * self._width)
        return torch.where(inside == 1, share, 1 - share).float(), inside, 1 - inside, top, bottom, left, right


def _without_box(share: Tensor) -> tuple[Tensor, ...]:
    zero = torch.zeros_like(share, dtype=torch.int64)
    return share, share, share, zero, zero, zero, zero


def smaller_shares(alpha: float) -> Tensor:
    """Return quantiles of min(x, 1 - x) for x ~ Beta(alpha, alpha), at (i + 1/2) / 65536: float32 [65536] in [0, 1/2].

    The density is proportional to (x (1 - x))^(alpha - 1), which is unbounded at 0 for alpha < 1. In that case
    u = x^alpha has a bounded density, proportional to (1 - x)^(alpha - 1). It is integrated by the trapezoidal rule.
    """
    power = min(alpha, 1.0)
    u = np.linspace(0.0, 0.5**power, _GRID)
    x = u ** (1 / power)
    density = x ** (alpha - power) * (1 - x) ** (alpha - 1)
    cumulative = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    levels = (np.arange(QUANTILES) + 0.5) / QUANTILES * cumulative[-1]
    quantiles = np.interp(levels, cumulative, u) ** (1 / power)
    return torch.from_numpy(np.rint(quantiles * QUANTILES) / QUANTILES).float()
