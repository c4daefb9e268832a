"""Decode an image for random crops of it, and resize the crops.

    decode    simplejpeg, whose pixels are Pillow's. Rows below the lowest crop are not decoded. For a crop that is at
              least 2 (4, 8) times as large as the view, the image is decoded at 1/2 (1/4, 1/8) of its size: an inverse
              cosine transform of fewer coefficients, which averages like a resize.
    resize    bilinear, antialiased: torch's kernel for uint8 with channels-last strides. Its pixels differ from
              Pillow's by one gray level at most.

Milliseconds of CPU time per random crop of a 500x375 JPEG of 46 KB to 224x224, on one core of an AMD EPYC:

    full decode 0.75    without the rows below the crop 0.69    Pillow 1.0
    resize, torch 0.20  Pillow 0.93  OpenCV, antialiased (INTER_AREA) 0.55, not antialiased 0.11

Files other than JPEGs with 1 or 3 channels are decoded by Pillow (image_decoding.py).

Shapes: H x W pixels of an image after the rotation that its EXIF requires, S x S of a view.
"""

import threading
from collections.abc import Sequence
from math import ceil
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from raykd.data.image_decoding import QUARTER_TURNS, UPRIGHT, decode_whole, turned
from raykd.data.image_metadata import read_jpeg_header
from raykd.errors import DataError

_MARGIN = 4  # rows decoded below a crop: its last rows are interpolated from the color of the rows below
_REDUCTIONS = (8, 4, 2)
_COLOR_SPACES = ("Gray", "RGB", "YCbCr")  # of JPEGs that simplejpeg decodes like Pillow, unlike CMYK


class Box(NamedTuple):
    """A crop, in pixels of the whole image, and whether it is mirrored."""

    top: int
    left: int
    height: int
    width: int
    is_flipped: bool


class _Scratch(threading.local):
    """Memory of a thread into which one image after another is decoded: new memory would cost 0.35 ms per image."""

    def __init__(self) -> None:
        self._memory = np.empty(0, dtype=np.uint8)

    def reserve(self, num_bytes: int) -> np.ndarray:
        """Return memory for at least `num_bytes`. It is used again for the next image."""
        if len(self._memory) < num_bytes:
            self._memory = np.empty(num_bytes, dtype=np.uint8)
        return self._memory


_scratch = _Scratch()


class Decoded(NamedTuple):
    """The upper rows of an image: uint8 [h, w, 3], at 1 / reduction of its size.

    They are valid until the thread decodes its next image.
    """

    pixels: np.ndarray
    reduction: int = 1


def reduction_of(box: Box, side: int) -> int:
    """Return 8, 4, 2 or 1: an image is decoded at 1 / reduction of its size for this crop and views of `side` pixels.

    No other view affects the reduction, so the pixels of a view do not depend on the views that are decoded with it.
    """
    return next((number for number in _REDUCTIONS if min(box.height, box.width) >= number * side), 1)


def decode_for_crops(
    where: str, encoded: bytes, size: tuple[int, int], boxes: Sequence[Box], reduction: int
) -> Decoded:
    """Decode the part of an image that the crops `boxes` show.

    size: H and W, which the pack recorded. reduction: the `reduction_of` of every box.
    Raises DataError, which begins with `where`, for an image that cannot be decoded or has another size.
    """
    num_rows = min(size[0], max(box.top + box.height for box in boxes) + _MARGIN)
    decoded = _decode_jpeg(encoded, size, num_rows, reduction)
    if decoded is None:
        decoded = Decoded(decode_whole(where, encoded))
        if decoded.pixels.shape[:2] != size:
            height, width = decoded.pixels.shape[:2]
            raise DataError(f"{where} is {width}x{height} pixels instead of {size[1]}x{size[0]}; pack the images again")
    return decoded


def crop(decoded: Decoded, box: Box, view: np.ndarray) -> None:
    """Write the crop `box` of an image, resized and mirrored, to uint8 [S, S, 3]."""
    top, left, bottom, right = (
        round(edge / decoded.reduction) for edge in (box.top, box.left, box.top + box.height, box.left + box.width)
    )
    part = torch.from_numpy(decoded.pixels[None, top:bottom, left:right].copy())
    resized = F.interpolate(part.permute(0, 3, 1, 2), view.shape[:2], mode="bilinear", antialias=True)
    view[:] = (resized.flip(3) if box.is_flipped else resized).permute(0, 2, 3, 1).numpy()[0]


def _decode_jpeg(encoded: bytes, size: tuple[int, int], num_rows: int, reduction: int) -> Decoded | None:
    """Decode the first `num_rows` rows of a JPEG, or all of them.

    Return None for files that only Pillow can decode, and for images that have another size.
    """
    import simplejpeg  # here: only images on disk require it, and machines without it train on images in memory

    # Not strict: Pillow ignores the decoder's warnings too, and rows that are left out would be reported as damage.
    # The pack's checksums detect real damage.
    try:
        *full_size, color_space, _ = simplejpeg.decode_jpeg_header(encoded, strict=False)
        orientation, height_at = read_jpeg_header(encoded)
        height, width = size[::-1] if orientation in QUARTER_TURNS else size
        if full_size != [height, width] or color_space not in _COLOR_SPACES:
            return None
        if orientation == UPRIGHT and height_at and num_rows < height:
            encoded = b"".join((encoded[:height_at], num_rows.to_bytes(2, "big"), encoded[height_at + 2 :]))
            height = num_rows
        height, width = ceil(height / reduction), ceil(width / reduction)
        limits = {} if reduction == 1 else {"min_height": height, "min_width": width}
        buffer = _scratch.reserve(3 * height * width)
        pixels = simplejpeg.decode_jpeg(encoded, "RGB", strict=False, buffer=buffer, **limits)
    except (ValueError, KeyError):  # KeyError: of a subsampling that simplejpeg does not support
        return None
    return Decoded(turned(pixels, orientation), reduction) if pixels.shape[:2] == (height, width) else None
