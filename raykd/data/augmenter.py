"""Applies an Augmentation: an epoch's draws at once, then one batch of pixels after another.

    key       = hash(AUGMENT, seed, epoch, index)          of the image itself
    key'      = hash(PARTNER, seed, epoch, index)          of what is mixed into it
    partner   = rows[uniform(key')]                        any image that the run trains on, itself included
    view'     = uniform(key')                              not the one in which the epoch shows that image itself

Every technique draws from the keys alone, so switching one on or off leaves the others' draws as they were. As views
are, pixels are thus a function of (seed, epoch, index) and of which images there are: no batch, no worker, no stream.

Shapes: n images of an epoch, B of a batch; P = 1, or 2 with partners.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from raykd.data.augmentation import Augmentation
from raykd.data.counter_rng import AUGMENT, PARTNER, VIEW, hash64, uniform_int
from raykd.data.cutout import Cutout
from raykd.data.mixing import Mixing
from raykd.data.rand_augment import RandAugment
from raykd.data.random_crop import RandomCrop
from raykd.data.views import ViewRenderer
from raykd.outputs import Mixed


class Technique(Protocol):
    """Changes images one by one."""

    def draw(self, keys: Tensor) -> tuple[Tensor, ...]:
        """All that is random, from keys of any shape: tensors whose last dimensions are the keys'."""
        ...

    def apply(self, pixels: Tensor, draws: Sequence[Tensor]) -> Tensor:
        """uint8 [k, H, W, 3] by what was drawn for k keys; may overwrite them."""
        ...


@dataclass(frozen=True)
class Draws:
    """What an epoch shows. index, view: int64 [P, n], the images' own in row 0 and their partners' in row 1.

    techniques: of each, tensors [..., P, n]. mixing: tensors [n]; empty without partners.
    """

    index: Tensor
    view: Tensor
    techniques: tuple[tuple[Tensor, ...], ...]
    mixing: tuple[Tensor, ...]

    def tensors(self) -> list[Tensor]:
        """Return every tensor, in a fixed order."""
        return [self.index, self.view, *(tensor for drawn in self.techniques for tensor in drawn), *self.mixing]


class Augmenter:
    """What `augmentation` makes of the views that `renderer` cuts.

    rows: int64 [n], the images that a run trains on, from which partners are drawn; labels: int64 [N], of all.
    mean: of the training pixels by channel, as fractions of 255: the colour of cutout. All tensors on one device.
    """

    def __init__(
        self,
        augmentation: Augmentation,
        renderer: ViewRenderer,
        rows: Tensor,
        labels: Tensor,
        mean: tuple[float, float, float],
    ) -> None:
        self._renderer, self._rows, self._labels = renderer, rows, labels
        size, device = (renderer.height, renderer.width), rows.device
        self._techniques: list[Technique] = []
        if augmentation.crop_area < 1:
            self._techniques.append(RandomCrop(augmentation.crop_area, *size))
        if augmentation.randaugment:
            count, magnitude = augmentation.randaugment
            self._techniques.append(RandAugment(count, magnitude, *size, device))
        if augmentation.cutout:
            fill = torch.tensor([round(255 * share) for share in mean], dtype=torch.uint8, device=device)
            self._techniques.append(Cutout(augmentation.cutout, *size, fill))
        self._mixing = None
        if augmentation.mixes:
            self._mixing = Mixing(augmentation.mixup, augmentation.cutmix, *size, device)

    def draw(self, seed: int, epoch: int, index: Tensor, view: Tensor) -> Draws:
        """For images `index` as `view`, int64 [n] each."""
        keys = [hash64(AUGMENT, seed, epoch, index)]
        shown, views, mixing = [index], [view], ()
        if self._mixing is not None:
            keys.append(hash64(PARTNER, seed, epoch, index))
            shown.append(self._rows[uniform_int(hash64(PARTNER, keys[1]), len(self._rows))])
            views.append(uniform_int(hash64(VIEW, keys[1]), self._renderer.views.count))
            mixing = self._mixing.draw(keys[0])
        both = torch.stack(keys)
        drawn = tuple(technique.draw(both) for technique in self._techniques)
        return Draws(torch.stack(shown), torch.stack(views), drawn, mixing)

    def show(self, draws: Draws, some: slice | Tensor) -> tuple[Tensor, Mixed | None]:
        """(uint8 [B, 3, H, W], channels-last; what was mixed into them) of the images `some` of an epoch's draws.

        some: a slice, or places int64 [B] on the device.
        """
        index, view = draws.index[:, some], draws.view[:, some]
        pixels = self._renderer.render(index.flatten(), view.flatten()).permute(0, 2, 3, 1)
        for technique, drawn in zip(self._techniques, draws.techniques, strict=True):
            pixels = technique.apply(pixels, [tensor[..., some].flatten(-2) for tensor in drawn])
        if self._mixing is None:
            return pixels.permute(0, 3, 1, 2), None
        mixing = [tensor[some] for tensor in draws.mixing]
        own, partners = pixels.chunk(2)
        pixels = self._mixing.apply(own, partners, mixing)
        return pixels.permute(0, 3, 1, 2), Mixed(self._labels[index[1]], share=mixing[0])
