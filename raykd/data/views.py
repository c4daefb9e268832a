"""Views: the finite set of crops and flips of an image, and a renderer for batches of them.

    view = (flip * (2p + 1) + top) * (2p + 1) + left      p = crop_padding, top and left in 0 .. 2p

A view is the image, mirrored if flip, padded by p black pixels on each side, and cropped to its original size at
(top, left): the standard CIFAR augmentation (He et al. 2015, arXiv:1512.03385, sec. 4.2), with numbered outcomes.
Padding 4 and a flip have 9 * 9 * 2 = 162 views. A hash of (seed, epoch, index) selects the view of an image.

Each model normalizes and resizes its input itself, so that teacher and student receive the same view.
"""

from collections.abc import Generator, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from raykd.data.counter_rng import VIEW, hash64, uniform_int
from raykd.errors import ConfigError

_MIRROR_CHUNK = 4096  # images; all of CIFAR-10 together would need 146 MiB more


@dataclass(frozen=True)
class Views:
    """The set of views of each image.

    crop_padding: black pixels on each side before the crop, >= 0. flip: half of the views are mirrored.
    """

    crop_padding: int
    flip: bool

    def __post_init__(self) -> None:
        if self.crop_padding < 0:
            raise ConfigError(f"crop_padding = {self.crop_padding}: must be 0 (no crops) or more pixels")

    @property
    def count(self) -> int:
        """The number of views of an image: (2p + 1)^2, twice that with flip."""
        return (2 * self.crop_padding + 1) ** 2 * (1 + self.flip)

    def draw(self, seed: int, epoch: int, index: Tensor, draw_number: Tensor | None = None) -> Tensor:
        """Return the view of each image in an epoch: int64 in 0 .. count - 1, in index's shape.

        Args: index is int64, of images of the training split, on any device. The result does not depend on the
            batch, its order, the number of workers, or the step at which a run resumed. draw_number: if
            an epoch may show an image several times, the numbers of the draws in index's shape, so that the views
            differ; else None.
        """
        return self.from_bits(hash64(VIEW, seed, epoch, index, *(() if draw_number is None else (draw_number,))))

    def from_bits(self, bits: Tensor) -> Tensor:
        """Return the view that each 64 random bits select, int64 in 0 .. count - 1, in any shape."""
        return uniform_int(bits, self.count)


class ViewRenderer:
    """Crops views from padded images on the device.

    A row of a view is W * 3 contiguous bytes, so a batch is one index_select of such rows: 0.6 microseconds per image
    (32x32, padding 4, batch 128, one CPU thread), against 2.2 for indexing windows with [], 3.9 for mirroring after
    the crop, and 3.7 for single pixels packed in an int32. It requires a mirrored copy: 50,000 images take 458 MiB
    with padding 4 and flip, 146 MiB as stored.

    Args: images is uint8 [N, 3, H, W] of a Split, whose channels-last strides save a copy if nothing is padded.
    """

    is_on_host = False  # index and view are on the device
    waited_s = 0.0

    def __init__(self, images: Tensor, views: Views, device: torch.device | str = "cpu") -> None:
        self.views = views
        self.height, self.width = images.shape[2:]
        pixels = images.to(device).permute(0, 2, 3, 1).contiguous()  # [N, H, W, 3]
        if views.count > 1:
            pixels = _pad_and_mirror(pixels, views)
        self._image_stride = pixels.stride(0)
        self._segments, self._view_offsets = self._segment(pixels)

    def render(self, index: Tensor, view: Tensor) -> Tensor:
        """Return view[b] of image index[b]: uint8 [B, 3, H, W], channels-last, on the device.

        Args: index int64 [B] in 0 .. N - 1, view int64 [B] in 0 .. count - 1, both on the device.
        """
        starts = self._view_offsets[view] + (index * self._image_stride)[:, None]  # [B, segments of a view]
        pixels = self._segments.index_select(0, starts.flatten())
        return pixels.view(-1, self.height, self.width, 3).permute(0, 3, 1, 2)

    def render_ahead(self, requests: Iterable[tuple[Tensor, Tensor]]) -> Generator[Tensor, None, None]:
        """Yield `render` of each (index, view) when it is requested."""
        return (self.render(index, view) for index, view in requests)

    def _segment(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return (segments, offsets): views consist of segments, which are runs of contiguous bytes.

        segments: uint8 [S, length], every run of `length` bytes, overlapping, without a copy. offsets: int64 [count,
        segments per view], where each segment of a view starts in an image's bytes.
        """
        reach = 2 * self.views.crop_padding + 1
        padded_width = self.width + reach - 1
        view = torch.arange(self.views.count, device=pixels.device)
        flip, top, left = view // reach**2, view // reach % reach, view % reach
        first = (flip * (self.height + reach - 1) + top) * padded_width + left
        rows = torch.arange(self.height, device=pixels.device) * padded_width
        length = self.width * 3
        if reach == 1:  # nothing is cropped: a view is one segment
            rows, length = rows[:1], length * self.height
        segments = pixels.as_strided((pixels.numel() - length + 1, length), (1, 1))
        return segments, (first[:, None] + rows) * 3


def _pad_and_mirror(pixels: Tensor, views: Views) -> Tensor:
    """Pad uint8 [N, H, W, 3] to [N, 1 + flip, H + 2p, W + 2p, 3] with black; the second image is the mirrored one."""
    num_images, height, width, _ = pixels.shape
    padding = views.crop_padding
    shape = (num_images, 1 + views.flip, height + 2 * padding, width + 2 * padding, 3)
    padded = torch.zeros(shape, dtype=torch.uint8, device=pixels.device)
    inside = padded[:, :, padding : padding + height, padding : padding + width]
    inside[:, 0] = pixels
    for first in range(0, num_images if views.flip else 0, _MIRROR_CHUNK):
        chunk = slice(first, first + _MIRROR_CHUNK)
        inside[chunk, 1] = pixels[chunk].flip(2)
    return padded
