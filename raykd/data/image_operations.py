"""What RandAugment does to images, for many at once: Pillow's operations, to the grey level.

    blended   = degenerate + factor * (image - degenerate)       ImageEnhance: black, grey, the mean grey, smoothed
    looked_up = table[image]                                     ImageOps: posterize, solarize, autocontrast, equalize
    moved     = image[source]                                    Image.transform, nearest pixel, black around

Roundings are Pillow's, in whole numbers or float arithmetic of one step at a time, so a GPU gives the same pixels.

Shapes: images uint8 [k, H, W, 3], contiguous; all results are so too.
"""

import torch
from torch import Tensor

LEVELS = 256


def moved(images: Tensor, source: Tensor) -> Tensor:
    """Each pixel from `source`, int64 [k, H * W], its row * W + column in the same image; -1 for black."""
    num_images, height, width, _ = images.shape
    first = torch.arange(num_images, device=images.device)[:, None] * (height * width)
    found = images.view(-1, 3).index_select(0, (source.clamp(min=0) + first).flatten())
    return found.view_as(images).masked_fill_((source < 0).view(num_images, height, width, 1), 0)


def blended(images: Tensor, degenerate: Tensor, factor: Tensor) -> Tensor:
    """degenerate, broadcast, at factor 0, the image at 1, beyond it above: factor float32 [k]; cut to 0 .. 255."""
    base = degenerate.float()
    scaled = (images.float() - base) * factor.view(-1, 1, 1, 1)  # by itself: fused with the sum it rounds otherwise
    return (scaled + base).clamp_(0, LEVELS - 1).to(torch.uint8)


def black(images: Tensor) -> Tensor:
    """What brightness blends with: [k, 1, 1, 1]."""
    return torch.zeros(len(images), 1, 1, 1, dtype=torch.uint8, device=images.device)


def grey(images: Tensor) -> Tensor:
    """What colour blends with: luma of ITU-R 601-2 in 16 bits, [k, H, W, 1]."""
    red, green, blue = images.int().unbind(-1)
    return ((red * 19_595 + green * 38_470 + blue * 7_471 + (1 << 15)) >> 16).to(torch.uint8)[..., None]


def mean_grey(images: Tensor) -> Tensor:
    """What contrast blends with: the mean of `grey`, rounded half up, [k, 1, 1, 1]."""
    num_pixels = images.shape[1] * images.shape[2]
    total = grey(images).sum((1, 2, 3), keepdim=True, dtype=torch.int64)
    return ((2 * total + num_pixels) // (2 * num_pixels)).to(torch.uint8)


def smoothed(images: Tensor) -> Tensor:
    """What sharpness blends with: a pixel 5 parts, its 8 neighbours one each, of 13; the border as it is."""
    wide = images.to(torch.int16)
    columns = wide[:, :-2] + wide[:, 1:-1] + wide[:, 2:]
    total = columns[:, :, :-2] + columns[:, :, 1:-1] + columns[:, :, 2:] + 4 * wide[:, 1:-1, 1:-1]
    result = images.clone()
    result[:, 1:-1, 1:-1] = (2 * total + 13).div_(26, rounding_mode="floor").to(torch.uint8)
    return result


def posterized(images: Tensor, bits: int) -> Tensor:
    """The upper `bits` of 8, 1 to 8, are kept."""
    return images & (LEVELS - (1 << (8 - bits)))


def solarized(images: Tensor, threshold: float) -> Tensor:
    """Levels from `threshold` on are inverted."""
    return torch.where(images >= threshold, LEVELS - 1 - images, images)


def autocontrasted(images: Tensor) -> Tensor:
    """Each channel stretched to 0 .. 255; one of a single level stays."""
    low, high = images.amin((1, 2), keepdim=True).double(), images.amax((1, 2), keepdim=True).double()
    scale = (LEVELS - 1) / (high - low).clamp(min=1)
    scaled = images.double() * scale  # by itself, as in `blended`
    stretched = (scaled - low * scale).clamp_(0, LEVELS - 1).to(torch.uint8)
    return torch.where(high > low, stretched, images)


def equalized(images: Tensor) -> Tensor:
    """Each channel through its own cumulative histogram, so that levels are about equally frequent."""
    num_images, height, width, _ = images.shape
    levels = images.view(num_images, height * width, 3).transpose(1, 2).long()  # [k, 3, H * W]
    histogram = torch.zeros(num_images, 3, LEVELS, dtype=torch.int64, device=images.device)
    histogram.scatter_add_(2, levels, torch.ones_like(levels))
    of_highest = histogram.gather(2, levels.amax(2, keepdim=True))
    step = (height * width - of_highest) // (LEVELS - 1)
    below = histogram.cumsum(2) - histogram
    table = ((step // 2 + below) // step.clamp(min=1)).clamp_(max=LEVELS - 1)
    table = torch.where(step > 0, table, torch.arange(LEVELS, device=images.device))
    return table.gather(2, levels).to(torch.uint8).transpose(1, 2).reshape_as(images)
