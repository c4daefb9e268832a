"""Apply an Augmentation: draw the random numbers of a whole epoch, then augment one rendered batch after another.

    key       = hash(AUGMENT, seed, epoch, index)          of the image
    key'      = hash(PARTNER, seed, epoch, index)          of the partner that is mixed into it
    partner   = indices[uniform(key')]                     any image that the run trains on, itself included
    view'     = view selected by key'                      independent of the partner's own view in this epoch

Every technique draws from the keys alone, so enabling one does not change the others' draws. Pixels are thus a function
of (seed, epoch, index), as views are. If an epoch repeats images they also depend on the number of the draw, and with
mixup or CutMix on the set of the run's images, from which partners are drawn. They do not depend on batches, workers or
a random stream.

Shapes: n images in an epoch, B in a batch; P = 1, or 2 with partners.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from raykd.data.augmentation import Augmentation
from raykd.data.counter_rng import AUGMENT, PARTNER, VIEW, hash64, uniform_int
from raykd.data.crop_views import CropViews
from raykd.data.cutout import Cutout
from raykd.data.erasing import Erasing
from raykd.data.mixing import Mixing
from raykd.data.rand_augment import RandAugment
from raykd.data.random_crop import RandomCrop
from raykd.data.views import Views
from raykd.outputs import Mixed


class Technique(Protocol):
    """An augmentation of single images."""

    def draw(self, keys: Tensor) -> tuple[Tensor, ...]:
        """Draw all random numbers, from keys of any shape: tensors whose last dimensions are those of `keys`."""
        ...

    def apply(self, pixels: Tensor, draws: Sequence[Tensor]) -> Tensor:
        """Augment uint8 [k, H, W, 3] with the draws of k keys. The pixels may be overwritten."""
        ...


@dataclass(frozen=True)
class Draws:
    """The random numbers of an epoch.

    index, view: int64 [P, n], of the images in row 0 and of their partners in row 1. techniques: tensors [..., P, n]
    for each technique. mixing: tensors [n]; empty without partners.
    """

    index: Tensor
    view: Tensor
    techniques: tuple[tuple[Tensor, ...], ...]
    mixing: tuple[Tensor, ...]

    def tensors(self) -> list[Tensor]:
        """Return every tensor, in a fixed order."""
        return [self.index, self.view, *(tensor for draws in self.techniques for tensor in draws), *self.mixing]


class Augmenter:
    """Draws the partners of images, and augments rendered views.

    size: height and width of a view. indices: int64 [n], the images that a run trains on, from which partners are
    drawn. labels: int64 [N], of the whole training split. mean, std: of the training pixels by channel, as fractions of
    255: the color of cutout, and the noise of random erasing. All tensors are on one device.
    """

    def __init__(
        self,
        augmentation: Augmentation,
        views: Views | CropViews,
        size: tuple[int, int],
        indices: Tensor,
        labels: Tensor,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
    ) -> None:
        self._views, self._indices, self._labels = views, indices, labels
        device = indices.device
        self._techniques: list[Technique] = []
        if augmentation.crop_area < 1:
            self._techniques.append(RandomCrop(augmentation.crop_area, *size))
        if augmentation.randaugment:
            count, magnitude = augmentation.randaugment
            self._techniques.append(RandAugment(count, magnitude, *size, device))
        if augmentation.cutout:
            fill = torch.tensor([round(255 * value) for value in mean], dtype=torch.uint8, device=device)
            self._techniques.append(Cutout(augmentation.cutout, *size, fill))
        if augmentation.erasing:
            has_noise = augmentation.erasing_fill == "noise"
            self._techniques.append(Erasing(augmentation.erasing, has_noise, *size, mean, std, device))
        self._mixing = None
        if augmentation.mixes:
            self._mixing = Mixing(augmentation.mixup, augmentation.cutmix, *size, device)

    def draw(self, seed: int, epoch: int, index: Tensor, view: Tensor, draw_number: Tensor | None = None) -> Draws:
        """Draw for images `index` with the views `view`, int64 [n] each. draw_number: as in Views.draw."""
        counters = (seed, epoch, index) if draw_number is None else (seed, epoch, index, draw_number)
        keys = [hash64(AUGMENT, *counters)]
        images, views, mixing = [index], [view], ()
        if self._mixing is not None:
            keys.append(hash64(PARTNER, *counters))
            images.append(self._indices[uniform_int(hash64(PARTNER, keys[1]), len(self._indices))])
            views.append(self._views.from_bits(hash64(VIEW, keys[1])))
            mixing = self._mixing.draw(keys[0])
        both = torch.stack(keys)
        techniques = tuple(technique.draw(both) for technique in self._techniques)
        return Draws(torch.stack(images), torch.stack(views), techniques, mixing)

    def apply(self, views: Tensor, draws: Draws, positions: slice | Tensor) -> tuple[Tensor, Mixed | None]:
        """Return (images, partners) at some positions of an epoch: uint8 [B, 3, H, W], channels-last.

        views: uint8 [P * B, 3, H, W], the views draws.index and draws.view at these positions: of all images, then of
            all partners. They may be overwritten.
        positions: a slice, or int64 [B] on the device.
        """
        pixels = views.permute(0, 2, 3, 1)
        for technique, tensors in zip(self._techniques, draws.techniques, strict=True):
            pixels = technique.apply(pixels, [_at(tensor, positions).flatten(-2) for tensor in tensors])
        if self._mixing is None:
            return pixels.permute(0, 3, 1, 2), None
        mixing = [tensor[positions] for tensor in draws.mixing]
        images, partners = pixels.chunk(2)
        pixels = self._mixing.apply(images, partners, mixing)
        partner_labels = self._labels[draws.index[1, positions]]
        return pixels.permute(0, 3, 1, 2), Mixed(partner_labels, share=mixing[0])


def _at(tensor: Tensor, positions: slice | Tensor) -> Tensor:
    """Return `tensor`, [..., n], at some positions. RandAugment also has draws on the CPU."""
    return tensor[..., positions if isinstance(positions, slice) else positions.to(tensor.device)]
