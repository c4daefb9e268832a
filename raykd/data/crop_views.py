"""Crop views: random crops of whole images, resized to one size, and numbered like the views of views.py.

    key  = hash(CROP_VIEW, index, view)
    box  = a box of at least `min_area` of the image, drawn from the key (random_crop.py)
    flip = a bit of hash(CROP_VIEW, key, 1)

This is the standard augmentation of ImageNet (Szegedy et al. 2014, arXiv:1409.4842, sec. 6). With `count`, an image has
a finite set of crops, which a logit cache can hold (Shen and Xing 2022, arXiv:2112.01528; Wu et al. 2022,
arXiv:2207.10666). Without `count`, every epoch of every seed shows another crop.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from raykd.data.counter_rng import CROP, CROP_VIEW, VIEW, hash64, non_negative, uniform_int
from raykd.data.random_crop import crop_shape

_FLIP = 1  # the counter of the flip's bit, after the key


class Boxes(NamedTuple):
    """Crops of images: int64 [B] in pixels, and bool [B] for those that are mirrored after the crop."""

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor
    is_flipped: Tensor


@dataclass(frozen=True)
class CropViews:
    """The set of crop views of each image.

    min_area: the least fraction of an image in a crop, in (0, 1]. flip: half of the crops are mirrored.
    count: the number of views of an image; None for a new one in every epoch.
    """

    min_area: float
    flip: bool
    count: int | None = None

    def draw(self, seed: int, epoch: int, index: Tensor, draw_number: Tensor | None = None) -> Tensor:
        """Return the view of each image in an epoch: int64 in 0 .. count - 1, or below 2^63 without a count.

        The arguments are those of `Views.draw`.
        """
        return self.from_bits(hash64(VIEW, seed, epoch, index, *(() if draw_number is None else (draw_number,))))

    def from_bits(self, bits: Tensor) -> Tensor:
        """Return the view that each 64 random bits select, int64 in the range of `draw`, in any shape."""
        return non_negative(bits) if self.count is None else uniform_int(bits, self.count)

    def boxes(self, index: Tensor, view: Tensor, sizes: Tensor) -> Boxes:
        """Return the crops of images `index` in the views `view`, int64 [B]; sizes: int64 [B, 2], height and width."""
        keys = hash64(CROP_VIEW, index, view)
        height, width = sizes.unbind(1)
        is_flipped = uniform_int(hash64(CROP_VIEW, keys, _FLIP), 2) == 1
        if not self.flip:
            is_flipped = torch.zeros_like(is_flipped)
        return Boxes(*crop_shape(self.min_area).draw(CROP, keys, height, width)[:4], is_flipped)
