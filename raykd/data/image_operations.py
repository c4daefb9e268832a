"""The operations of RandAugment on batches of images. The results have the same pixel values as Pillow's.

    blend(image)  = degenerate + factor * (image - degenerate)   ImageEnhance: black, gray, the mean gray, smoothed
    table[image]                                                 ImageOps: posterize, solarize, autocontrast, equalize
    image[source]                                                Image.transform, nearest pixel, black outside

Rounding is Pillow's, in integers or in separate float operations, so a GPU computes the same pixels.

Shapes: images and results are uint8 [k, H, W, 3], contiguous.
"""

import torch
from torch import Tensor

LEVELS = 256


def transform(images: Tensor, source: Tensor) -> Tensor:
    """Copy each pixel from `source`, int64 [k, H * W]: row * W + column in the same image, -1 for black."""
    num_images, height, width, _ = images.shape
    first = torch.arange(num_images, device=images.device)[:, None] * (height * width)
    pixels = images.view(-1, 3).index_select(0, (source.clamp(min=0) + first).flatten())
    return pixels.view_as(images).masked_fill_((source < 0).view(num_images, height, width, 1), 0)


def blend(images: Tensor, degenerate: Tensor, factor: Tensor) -> Tensor:
    """Interpolate from `degenerate` (factor 0) to the image (factor 1), or extrapolate, and clip to 0 .. 255.

    factor: float32 [k].
    """
    base = degenerate.float()
    # Product and sum are separate statements: a fused operation would round differently.
    scaled = (images.float() - base) * factor.view(-1, 1, 1, 1)
    return (scaled + base).clamp_(0, LEVELS - 1).to(torch.uint8)


def black(images: Tensor) -> Tensor:
    """Return the degenerate image of brightness, black, uint8 [k, 1, 1, 1]."""
    return torch.zeros(len(images), 1, 1, 1, dtype=torch.uint8, device=images.device)


def gray(images: Tensor) -> Tensor:
    """Return the degenerate image of color: luma of ITU-R 601-2 in 16-bit fixed point, uint8 [k, H, W, 1]."""
    red, green, blue = images.int().unbind(-1)
    return ((red * 19_595 + green * 38_470 + blue * 7_471 + (1 << 15)) >> 16).to(torch.uint8)[..., None]


def mean_gray(images: Tensor) -> Tensor:
    """Return the degenerate image of contrast: the mean of `gray`, rounded half up, uint8 [k, 1, 1, 1]."""
    num_pixels = images.shape[1] * images.shape[2]
    total = gray(images).sum((1, 2, 3), keepdim=True, dtype=torch.int64)
    return ((2 * total + num_pixels) // (2 * num_pixels)).to(torch.uint8)


def smooth(images: Tensor) -> Tensor:
    """Return the degenerate image of sharpness: (5 * pixel + its 8 neighbors) / 13, the border unchanged."""
    wide = images.to(torch.int16)
    columns = wide[:, :-2] + wide[:, 1:-1] + wide[:, 2:]
    total = columns[:, :, :-2] + columns[:, :, 1:-1] + columns[:, :, 2:] + 4 * wide[:, 1:-1, 1:-1]
    result = images.clone()
    result[:, 1:-1, 1:-1] = (2 * total + 13).div_(26, rounding_mode="floor").to(torch.uint8)
    return result


def posterize(images: Tensor, bits: int) -> Tensor:
    """Keep the upper `bits` of 8 bits."""
    return images & (LEVELS - (1 << (8 - bits)))


def solarize(images: Tensor, threshold: float) -> Tensor:
    """Invert levels at or above `threshold`."""
    return torch.where(images >= threshold, LEVELS - 1 - images, images)


def autocontrast(images: Tensor) -> Tensor:
    """Stretch each channel to 0 .. 255; a constant channel stays as it is."""
    low, high = images.amin((1, 2), keepdim=True).double(), images.amax((1, 2), keepdim=True).double()
    scale = (LEVELS - 1) / (high - low).clamp(min=1)
    scaled = images.double() * scale  # a separate statement, as in `blend`
    stretched = (scaled - low * scale).clamp_(0, LEVELS - 1).to(torch.uint8)
    return torch.where(high > low, stretched, images)


def equalize(images: Tensor) -> Tensor:
    """Map each channel through its cumulative histogram, so that levels are about equally frequent."""
    num_images, height, width, _ = images.shape
    levels = images.view(num_images, height * width, 3).transpose(1, 2).long()  # [k, 3, H * W]
    histogram = torch.zeros(num_images, 3, LEVELS, dtype=torch.int64, device=images.device)
    histogram.scatter_add_(2, levels, torch.ones_like(levels))
    highest_count = histogram.gather(2, levels.amax(2, keepdim=True))
    step = (height * width - highest_count) // (LEVELS - 1)
    below = histogram.cumsum(2) - histogram
    table = ((step // 2 + below) // step.clamp(min=1)).clamp_(max=LEVELS - 1)
    table = torch.where(step > 0, table, torch.arange(LEVELS, device=images.device))
    return table.gather(2, levels).to(torch.uint8).transpose(1, 2).reshape_as(images)
