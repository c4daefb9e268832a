"""Two images in one: mixup (Zhang et al. 2017, arXiv:1710.09412) and CutMix (Yun et al. 2019, arXiv:1905.04899).

    mixup    shown = share * own + (1 - share) * partner            share = max(x, 1 - x),  x ~ Beta(alpha, alpha)
    cutmix   shown = partner inside a box, own outside              (1 - x) H W is the box's area before it is clipped

An image always gives the larger part of what is shown under its index, so `share` is 1/2 or more and its label is the
first of the two. Of mixup that is another name for the same pairs, since x and 1 - x are equally likely; of CutMix,
where a box covers more than half, own and partner change places.

x is one of 65,536 quantiles of its distribution, and a share a multiple of 2^-16: a mixed pixel is then exact in
float32 before it is rounded, half up, and the same on every device.

Shapes: B images [B, H, W, 3] and as many partners.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from raykd.data.counter_rng import MIX, hash64, uniform_int

QUANTILES = 1 << 16
_GRID = (1 << 16) + 1  # points at which the density is integrated


class Mixing:
    """alphas of mixup and CutMix, 0 for none and one above 0; images of height x width."""

    def __init__(self, mixup: float, cutmix: float, height: int, width: int, device: torch.device | str) -> None:
        self._height, self._width = height, width
        self._mixup = smaller_shares(mixup).to(device) if mixup else None
        self._cutmix = smaller_shares(cutmix).to(device) if cutmix else None

    def draw(self, keys: Tensor) -> tuple[Tensor, ...]:
        """(share, inside, outside, top, bottom, left, right) of each key, all of its shape.

        share: float32, of the image itself. inside, outside: float32, its weight in the box and around it. The box is
        int64, from top to bottom - 1; of mixup it is empty.
        """
        quantile = uniform_int(hash64(MIX, keys, 0), QUANTILES)
        if self._cutmix is None:
            assert self._mixup is not None
            return _evenly(1 - self._mixup[quantile])
        boxed = self._boxed(keys, self._cutmix[quantile])
        if self._mixup is None:
            return boxed
        is_mixup = uniform_int(hash64(MIX, keys, 1), 2) == 1
        evenly = _evenly(1 - self._mixup[quantile])
        return tuple(torch.where(is_mixup, one, other) for one, other in zip(evenly, boxed, strict=True))

    def apply(self, own: Tensor, partner: Tensor, draws: Sequence[Tensor]) -> Tensor:
        """uint8 [B, H, W, 3] of two, by what was drawn for each, [B]."""
        _, inside, outside, *edges = draws
        top, bottom, left, right = (edge[:, None] for edge in edges)
        row = torch.arange(self._height, device=own.device)
        column = torch.arange(3 * self._width, device=own.device) // 3  # of each byte of a row
        is_row, is_column = (row >= top) & (row < bottom), (column >= left) & (column < right)
        is_inside = is_row[:, :, None] & is_column[:, None, :]
        weight = torch.where(is_inside, inside[:, None, None], outside[:, None, None])
        mixed = torch.lerp(partner.flatten(2).float(), own.flatten(2).float(), weight)
        return mixed.add_(0.5).to(torch.uint8).view_as(own)

    def _boxed(self, keys: Tensor, smaller: Tensor) -> tuple[Tensor, ...]:
        is_large = uniform_int(hash64(MIX, keys, 2), 2) == 1
        area = torch.where(is_large, 1 - smaller, smaller).double()
        edges = []
        for axis, length in enumerate((self._height, self._width)):
            half = (length * area.sqrt()).long() // 2
            centre = uniform_int(hash64(MIX, keys, 3 + axis), length)
            edges += [(centre - half).clamp(min=0), (centre + half).clamp(max=length)]
        top, bottom, left, right = edges
        covered = (bottom - top) * (right - left)
        inside = (2 * covered > self._height * self._width).float()
        share = covered.double() / (self._height * self._width)
        return torch.where(inside == 1, share, 1 - share).float(), inside, 1 - inside, top, bottom, left, right


def _evenly(share: Tensor) -> tuple[Tensor, ...]:
    nothing = torch.zeros_like(share, dtype=torch.int64)
    return share, share, share, nothing, nothing, nothing, nothing


def smaller_shares(alpha: float) -> Tensor:
    """Quantiles of min(x, 1 - x) for x ~ Beta(alpha, alpha), at (i + 1/2) / 65536: float32 [65536] in [0, 1/2].

    The density is (x (1 - x))^(alpha - 1) up to a factor, without bound at 0 where alpha < 1. There u = x^alpha has
    one that is finite, (1 - x)^(alpha - 1) up to a factor. It is integrated by trapezoids.
    """
    power = min(alpha, 1.0)
    u = np.linspace(0.0, 0.5**power, _GRID)
    x = u ** (1 / power)
    density = x ** (alpha - power) * (1 - x) ** (alpha - 1)
    below = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    wanted = (np.arange(QUANTILES) + 0.5) / QUANTILES * below[-1]
    quantiles = np.interp(wanted, below, u) ** (1 / power)
    return torch.from_numpy(np.rint(quantiles * QUANTILES) / QUANTILES).float()
