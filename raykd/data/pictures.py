"""Encoded pictures -> RGB pixels of one size, by several threads.

A picture is turned as its EXIF says. Grey, palette and CMYK become RGB, an alpha channel is dropped, and of 16 bits the
upper 8 are kept. Where a size is wanted that it has not, its middle square is resized (bicubic, antialiased).
"""

import io
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from raykd.data.picture_bytes import JPEG, PNG, PictureBytes, without_metadata
from raykd.data.plain_files import AGAIN
from raykd.errors import DataError

FORMATS = ("PNG", "JPEG")
MAX_THREADS = 8  # several workers of a node may read at once
DARK = 1 << 14  # a maximum of 16 bits below this leaves fewer than 64 of 256 grey levels
MAX_DARK = 0.1  # the share of pictures that may be dark
_AT_ONCE = 1024  # pictures handed to the threads at a time: after a bad one, no more than these are decoded
ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# First bytes of files that are often found under the name of a PNG or JPEG, and the remedy.
_CONVERT = "convert it to PNG or JPEG"
_FOREIGN = (
    (rb"version https://git-lfs", "it is a Git LFS pointer and not the file itself; run: git lfs pull"),
    (rb"\s*<(!doctype|html|\?xml)", f"it is a web page or XML and not the file itself; {AGAIN}"),
    (rb"RIFF....WEBP", f"it is a WEBP by its content; {_CONVERT}"),
    (rb"GIF8", f"it is a GIF by its content; {_CONVERT}"),
    (rb"BM....\0\0\0\0", f"it is a BMP by its content; {_CONVERT}"),
    (rb"II\*\0|MM\0\*", f"it is a TIFF by its content; {_CONVERT}"),
    (rb"....ftyp(hei|hev|mif1|avif)", f"it is a HEIC or AVIF by its content; {_CONVERT}"),
    (rb"\0*$", f"it is empty or all zeros; {AGAIN}"),
)
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # half of the limit, and it names no file


@dataclass(frozen=True)
class Wanted:
    """image_size: pixels on a side. refusal: what to say of a picture of another size; None to resize it."""

    image_size: int
    refusal: str | None = None


@dataclass(frozen=True)
class Decoded:
    """pixels: uint8 [image_size, image_size, 3]. deep_maximum: the highest value, where a channel has 16 bits.

    It is taken before resizing. Pillow reads the upper 8 bits of 16-bit color: the true maximum is then less than
    256 below this one.
    """

    pixels: np.ndarray
    deep_maximum: int | None = None


def decode(where: str, encoded: bytes, wanted: Wanted) -> Decoded:
    """Decode one picture.

    Raises: DataError, which begins with `where`, for bytes that are no picture and for a size that is refused.
    """
    size = (wanted.image_size, wanted.image_size)
    stored = without_metadata(encoded)
    with _opened(where, stored) as picture:
        width, height = picture.size  # known before the pixels: a huge picture costs nothing
        if (width, height) == size or wanted.refusal is None:
            turned = _turned(_rgb(picture), stored.orientation)
            maximum = _deep_maximum(picture, turned) if stored.bits == 16 else None
            fitted = turned if turned.size == size else ImageOps.fit(turned, size, Image.Resampling.BICUBIC)
            return Decoded(np.asarray(fitted), maximum)
    raise DataError(f"{where} is {width}x{height} pixels; {wanted.refusal}")


def decode_all(pixels: np.ndarray, read: Callable[[int], tuple[str, bytes]], wanted: Wanted) -> list[tuple[str, int]]:
    """Fill uint8 [N, image_size, image_size, 3]; `read` says where a row is from, and gives its bytes.

    Returns: of each picture of 16 bits where it is from and its highest value; see `require_full_range`.
    Raises: DataError for the first row that is bad.
    """

    def fill(row: int) -> tuple[str, int] | None:
        where, encoded = read(row)
        decoded = decode(where, encoded, wanted)
        pixels[row] = decoded.pixels
        return None if decoded.deep_maximum is None else (where, decoded.deep_maximum)

    return [deep for deep in in_threads(fill, range(len(pixels))) if deep is not None]


def require_full_range(deep: Sequence[tuple[str, int]]) -> None:
    """Refuse pictures of 16 bits whose values need fewer: only the upper 8 bits are kept, which are then nearly 0.

    Some pictures are dark, so MAX_DARK of them may be; one that is black throughout loses nothing.
    """
    dark = [(where, maximum) for where, maximum in deep if 0 < maximum < DARK]
    if len(dark) > MAX_DARK * len(deep):
        where, maximum = dark[0]
        raise DataError(
            f"{where}: its values of 16 bits go up to {maximum:,} at most, of 65,535, as in {len(dark)} of {len(deep)} "
            f"such pictures; only the upper 8 bits are read, which leaves {maximum // 256 + 1} of 256 levels: multiply "
            "the values to fill 16 bits, or store 8 bits"
        )


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
    with _opened(where, without_metadata(encoded)) as picture:
        width, height = picture.size
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


def foreign(encoded: bytes) -> str | None:
    """Return what bytes are that are neither PNG nor JPEG, with the remedy; None where that is not known."""
    return next((text for pattern, text in _FOREIGN if re.match(pattern, encoded[:64], re.DOTALL | re.I)), None)


@contextmanager
def _opened(where: str, stored: PictureBytes) -> Iterator[Image.Image]:
    """Open a picture; whatever Pillow raises inside becomes a DataError that begins with `where`."""
    try:
        with Image.open(io.BytesIO(stored.pixels), formats=FORMATS) as picture:
            yield picture
    except UnidentifiedImageError as error:
        if stored.pixels.startswith((PNG, JPEG)):
            raise _undecodable(where, "damaged, or of a kind that Pillow does not read") from error
        what = foreign(stored.pixels) or "store one of these"
        raise DataError(f"{where} is no PNG or JPEG; {what}") from error
    except Image.DecompressionBombError as error:
        pixels, limit = (f"{int(number):,}" for number in re.findall(r"\d+", str(error))[:2])
        raise DataError(f"{where} has {pixels} pixels, and {limit} is the limit; make it smaller") from error
    except (DataError, MemoryError):
        raise
    except Exception as error:  # Pillow raises what its decoders happen to: struct.error, OverflowError and others
        if "memory" in str(error):  # OSError of a decoder whose allocation failed
            raise MemoryError(str(error)) from error
        raise _undecodable(where, " ".join(str(error).split()) or type(error).__name__) from error


def _undecodable(where: str, reason: str) -> DataError:
    return DataError(f"{where} is a PNG or JPEG that cannot be decoded ({reason}); {AGAIN}, or save it anew as PNG")


def _turned(picture: Image.Image, orientation: int) -> Image.Image:
    return picture.transpose(ORIENTATIONS[orientation]) if orientation in ORIENTATIONS else picture


def _deep_maximum(picture: Image.Image, rgb: Image.Image) -> int:
    """Return the highest value of a picture of 16 bits. rgb: the same, with 8 bits."""
    if picture.mode.startswith("I"):
        return int(np.asarray(picture).max())
    return int(np.asarray(rgb).max()) * 256 + 255


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):  # 16-bit grey; Pillow would cut off what is above 255
        picture = Image.fromarray((np.asarray(picture).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if picture.mode == "P":
        picture = picture.convert("RGBA")  # Pillow warns of a transparent palette otherwise
    return picture if picture.mode == "RGB" else picture.convert("RGB")
