"""Encoded pictures -> RGB pixels of one size, by several threads.

A picture is turned as its EXIF says. Grey, palette and CMYK become RGB, an alpha channel is dropped, 16-bit grey
keeps its upper 8 bits. Where a size is wanted that it has not, its middle square is resized (bicubic, antialiased).
"""

import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from raykd.errors import DataError

FORMATS = ("PNG", "JPEG")
AGAIN = "copy or download it again"
MAX_THREADS = 8  # several workers of a node may read at once
_AT_ONCE = 1024  # pictures handed to the threads at a time: after a bad one, no more than these are decoded


@dataclass(frozen=True)
class Wanted:
    """image_size: pixels on a side. refusal: what to say of a picture of another size; None to resize it."""

    image_size: int
    refusal: str | None = None


def decode(where: str, encoded: bytes, wanted: Wanted) -> np.ndarray:
    """uint8 [image_size, image_size, 3].

    Raises: DataError, which begins with `where`, for bytes that are no picture and for a size that is refused.
    """
    size = (wanted.image_size, wanted.image_size)
    try:
        with Image.open(io.BytesIO(encoded), formats=FORMATS) as picture:
            width, height = picture.size  # known before the pixels: a huge picture costs nothing
            if (width, height) == size or wanted.refusal is None:
                turned = _rgb(ImageOps.exif_transpose(picture))
                fitted = turned if turned.size == size else ImageOps.fit(turned, size, Image.Resampling.BICUBIC)
                return np.asarray(fitted)
    except UnidentifiedImageError as error:
        raise DataError(f"{where} is no PNG or JPEG; store one of these") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{where} is a PNG or JPEG that cannot be decoded ({error}); {AGAIN}") from error
    raise DataError(f"{where} is {width}x{height} pixels; {wanted.refusal}")


def decode_all(pixels: np.ndarray, read: Callable[[int], tuple[str, bytes]], wanted: Wanted) -> None:
    """Fill uint8 [N, image_size, image_size, 3]; `read` says where a row is from, and gives its bytes.

    Raises: DataError for the first row that is bad.
    """

    def fill(row: int) -> None:
        pixels[row] = decode(*read(row), wanted)

    in_threads(fill, range(len(pixels)))


def in_threads(do: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """What `do` gives for each item, in order. Reading, hashing and decoding let go of the GIL."""
    done: list[Any] = []
    with ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1), thread_name_prefix="raykd-pictures") as threads:
        for first in range(0, len(items), _AT_ONCE):
            done += threads.map(do, items[first : first + _AT_ONCE])
    return done


def square_size(where: str, encoded: bytes) -> int:
    """Pixels on a side of the first picture of a dataset, whose size all others must have.

    Raises: DataError when it is no square, or no picture.
    """
    try:
        with Image.open(io.BytesIO(encoded), formats=FORMATS) as picture:
            width, height = picture.size
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{where} is no PNG or JPEG; store one of these") from error
    if width != height:
        raise DataError(
            f"{where} is {width}x{height} pixels, and a run takes squares of one size; give it with "
            f"--set data.image_size={min(width, height)}: the middle of each picture is resized to it"
        )
    return width


def wanted_of(image_size: int | None, where: str, encoded: bytes) -> Wanted:
    """As a person asked for it; without a size that of the first picture (`encoded`), and no other."""
    if image_size is not None:
        return Wanted(image_size)
    size = square_size(where, encoded)
    return Wanted(
        size,
        f"the first is {size}x{size}, and a run takes one size; give it with --set data.image_size={size}: "
        "the middle of each picture is resized to it",
    )


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):  # 16-bit grey; Pillow would cut off what is above 255
        picture = Image.fromarray((np.asarray(picture).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if picture.mode == "P":
        picture = picture.convert("RGBA")  # Pillow warns of a transparent palette otherwise
    return picture if picture.mode == "RGB" else picture.convert("RGB")
