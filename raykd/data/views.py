"""The finite set of crops and flips of an image, and how a batch of them is cut out.

    view = (flip * (2p + 1) + top) * (2p + 1) + left      p = crop_padding, top and left in 0 .. 2p

A view is the image, mirrored if flip, with p black pixels on each side, cut to its own size at (top, left):
the standard CIFAR augmentation (He et al. 2015, arXiv:1512.03385, sec. 4.2) with its outcomes counted.
Padding 4 and a flip: 9 * 9 * 2 = 162 views. Which one an image gets is a hash of (seed, epoch, index).

Not here: normalisation and resizing. A model does its own, so that teacher and student get the same view.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from raykd.data.counter_rng import VIEW, hash64, uniform_int
from raykd.errors import ConfigError

MIRRORED_AT_ONCE = 4096  # images; all of CIFAR-10 at once would take 146 MiB more for a moment


@dataclass(frozen=True)
class Views:
    """crop_padding: black pixels on each side before the crop, >= 0. flip: mirror half of the views."""

    crop_padding: int
    flip: bool

    def __post_init__(self) -> None:
        if self.crop_padding < 0:
            raise ConfigError(f"crop_padding is {self.crop_padding}; give 0 (no crops) or more pixels")

    @property
    def count(self) -> int:
        """How many views an image has: (2p + 1)^2, twice that with flip."""
        return (2 * self.crop_padding + 1) ** 2 * (1 + self.flip)

    @property
    def identity_view(self) -> int:
        """The view that is the image itself: not mirrored, cut in the middle."""
        return self.crop_padding * (2 * self.crop_padding + 1) + self.crop_padding

    def draw(self, seed: int, epoch: int, index: Tensor) -> Tensor:
        """The view that each image gets in epoch under seed: int64 in 0 .. count - 1, in index's shape.

        Args: index is int64, rows of the dataset's training part, on any device. Nothing else enters: not
            the batch, its order, the number of workers, nor where a run was resumed.
        """
        return uniform_int(hash64(VIEW, seed, epoch, index), self.count)


class ViewRenderer:
    """Cuts views out of images that are kept, padded, on the device.

    A row of a view is W * 3 neighbouring bytes, so a batch is one index_select of such rows: measured
    0.6 microseconds an image (32x32, padding 4, batch 128, one CPU thread), against 2.2 for indexing
    windows with [], 3.9 for mirroring after the crop, and 3.7 for single pixels packed in an int32.
    The price is a mirrored copy: 50,000 images take 458 MiB with padding 4 and flip, 146 MiB as stored.

    Args: images is uint8 [N, 3, H, W], best with channels-last strides (no copy when nothing is padded).
    Raises: ConfigError when images are not uint8 [N, 3, H, W].
    """

    def __init__(self, images: Tensor, views: Views, device: torch.device | str = "cpu") -> None:
        if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[1] != 3:
            raise ConfigError(f"images are {images.dtype} {list(images.shape)}, not uint8 [N, 3, H, W]")
        self.views = views
        self.height, self.width = images.shape[2:]
        pixels = images.to(device).permute(0, 2, 3, 1).contiguous()  # [N, H, W, 3]
        if views.count > 1:
            pixels = _pad_and_mirror(pixels, views)
        self._image_stride = pixels.stride(0)
        self._segments, self._view_offsets = self._cut(pixels)

    def render(self, index: Tensor, view: Tensor) -> Tensor:
        """Image index[b] as its view[b]: uint8 [B, 3, H, W], channels-last, on the device.

        Args: index int64 [B] in 0 .. N - 1, view int64 [B] in 0 .. count - 1, both on the device.
        """
        starts = self._view_offsets[view] + (index * self._image_stride)[:, None]  # [B, segments of a view]
        pixels = self._segments.index_select(0, starts.flatten())
        return pixels.view(-1, self.height, self.width, 3).permute(0, 3, 1, 2)

    def _cut(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(every run of bytes as long as a segment, [S, length], overlapping, no copy; its starts in a view).

        The second is int64 [count, segments of a view]: where in an image's bytes each segment begins.
        """
        reach = 2 * self.views.crop_padding + 1
        padded_width = self.width + reach - 1
        view = torch.arange(self.views.count, device=pixels.device)
        flip, top, left = view // reach**2, view // reach % reach, view % reach
        first = (flip * (self.height + reach - 1) + top) * padded_width + left
        rows = torch.arange(self.height, device=pixels.device) * padded_width
        length = self.width * 3
        if reach == 1:  # nothing is cut off: a view is one segment
            rows, length = rows[:1], length * self.height
        segments = pixels.as_strided((pixels.numel() - length + 1, length), (1, 1))
        return segments, (first[:, None] + rows) * 3


def _pad_and_mirror(pixels: Tensor, views: Views) -> Tensor:
    """uint8 [N, H, W, 3] -> [N, 1 + flip, H + 2p, W + 2p, 3], black around, the mirrored image second."""
    num_images, height, width, _ = pixels.shape
    padding = views.crop_padding
    shape = (num_images, 1 + views.flip, height + 2 * padding, width + 2 * padding, 3)
    padded = torch.zeros(shape, dtype=torch.uint8, device=pixels.device)
    inside = padded[:, :, padding : padding + height, padding : padding + width]
    inside[:, 0] = pixels
    for first in range(0, num_images if views.flip else 0, MIRRORED_AT_ONCE):
        some = slice(first, first + MIRRORED_AT_ONCE)
        inside[some, 1] = pixels[some].flip(2)
    return padded
