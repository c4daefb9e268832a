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
from raykd.data.image_metadata import JPEG, strip_metadata
from raykd.errors import DataError

_SEQUENTIAL_FRAMES, _PROGRESSIVE_FRAME = (0xC0, 0xC1), 0xC2
_START_OF_SCAN, _EXIF_OR_XMP, _FILL = 0xDA, 0xE1, 0xFF
_MARGIN = 4  # rows decoded below a crop: its last rows are interpolated from the color of the rows below
_REDUCTIONS = (8, 4, 2)
_COLOR_CHANNELS = (1, 3)  # of JPEGs that simplejpeg decodes like Pillow; CMYK has 4


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
    where: str, encoded: memoryview, size: tuple[int, int], boxes: Sequence[Box], reduction: int
) -> Decoded:
    """Decode the part of an image that the crops `boxes` show.

    size: H and W, which the pack recorded. reduction: the `reduction_of` of every box.
    Raises DataError, which begins with `where`, for an image that cannot be decoded or has another size.
    """
    num_rows = min(size[0], max(box.top + box.height for box in boxes) + _MARGIN)
    decoded = _decode_jpeg(bytearray(encoded), size, num_rows, reduction)
    if decoded is None:
        decoded = Decoded(decode_whole(where, bytes(encoded)))
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


def _decode_jpeg(encoded: bytearray, size: tuple[int, int], num_rows: int, reduction: int) -> Decoded | None:
    """Decode the first `num_rows` rows of a JPEG. Return None for files that only Pillow can decode."""
    import simplejpeg  # here: only images on disk require it, and machines without it train on images in memory

    header = _read_header(encoded)
    if header is None:
        return None
    orientation = strip_metadata(bytes(encoded)).orientation if header.has_metadata else UPRIGHT
    height, width = size if orientation not in QUARTER_TURNS else size[::-1]
    if header.size != (height, width):
        return None
    if orientation == UPRIGHT and header.is_sequential and num_rows < height:
        encoded[header.size_at : header.size_at + 2] = num_rows.to_bytes(2, "big")
        height = num_rows
    height, width = ceil(height / reduction), ceil(width / reduction)
    limits = {} if reduction == 1 else {"min_height": height, "min_width": width}
    try:
        # Not strict: rows that are left out would be reported as damage. The pack's checksums detect real damage.
        buffer = _scratch.reserve(3 * height * width)
        pixels = simplejpeg.decode_jpeg(encoded, "RGB", strict=False, buffer=buffer, **limits)
    except ValueError:
        return None
    return Decoded(turned(pixels, orientation), reduction) if pixels.shape[:2] == (height, width) else None


class _Header(NamedTuple):
    """The properties that determine how a JPEG is decoded.

    size: height and width before any rotation. size_at: the position of both in the file, in two bytes each.
    is_sequential: whether rows are stored from top to bottom. has_metadata: whether it may have EXIF or XMP.
    """

    size: tuple[int, int]
    size_at: int
    is_sequential: bool
    has_metadata: bool


def _read_header(encoded: bytearray) -> _Header | None:
    """Read the segments before the first scan of a JPEG. Return None for other files, and for other color channels."""
    if not encoded.startswith(JPEG):
        return None
    start, frame, has_metadata = 2, 0, False
    while start + 10 <= len(encoded) and encoded[start] == _FILL:
        marker = encoded[start + 1]
        if marker == _FILL:  # may precede a marker
            start += 1
            continue
        if marker == _START_OF_SCAN:
            break
        if marker in (*_SEQUENTIAL_FRAMES, _PROGRESSIVE_FRAME):
            frame = start
        has_metadata |= marker == _EXIF_OR_XMP
        start += 2 + int.from_bytes(encoded[start + 2 : start + 4], "big")
    else:
        return None
    # Frame: marker, length (2), bits (1), height (2), width (2), channels (1). Scan: marker, length (2), channels (1).
    if not frame or encoded[frame + 9] not in _COLOR_CHANNELS:
        return None
    is_interleaved = encoded[start + 4] == encoded[frame + 9]
    height, width = (int.from_bytes(encoded[at : at + 2], "big") for at in (frame + 5, frame + 7))
    return _Header(
        (height, width), frame + 5, encoded[frame + 1] in _SEQUENTIAL_FRAMES and is_interleaved, has_metadata
    )
