"""Decode PNG and JPEG files to RGB pixels of one size, in several threads.

An image is rotated as its EXIF requires. Gray, palette and CMYK become RGB, an alpha channel is dropped, and 16 bits
are reduced to the upper 8. If an image has another size, its middle square is resized (bicubic, antialiased).
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
from PIL import Image, UnidentifiedImageError

from raykd.data.image_metadata import JPEG, JPEG_END, PNG, PNG_END, StrippedImage, strip_metadata
from raykd.data.regular_files import REDOWNLOAD
from raykd.errors import DataError

_FORMATS = ("PNG", "JPEG")
_MAX_THREADS = 8  # several workers of a node may read concurrently
_CHUNK = 1024  # images handed to the threads at a time: after a damaged one, no more than these are decoded
_COUNTED = 10_000  # images that are read at least, if there are as many, to count the damaged ones; takes seconds
_END_BYTES = 1024  # at the end of a file, with the end of the image; programs may add some bytes after it
_DARK = 1 << 14  # a maximum of 16 bits below this leaves at most 64 of 256 gray levels
_MAX_DARK = 0.1  # the fraction of images that may be dark
UPRIGHT = 1  # the EXIF orientation of an image that is stored as it is shown
_MIRRORED = (2, 4, 5, 7)  # orientations that mirror the image before it is turned
_QUARTERS_TO_THE_LEFT = {1: 0, 2: 0, 3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}  # quarter turns by orientation
QUARTER_TURNS = (5, 6, 7, 8)  # orientations that exchange height and width
# The first bytes of files that are often named like a PNG or JPEG, and the remedy.
_CONVERT = "convert it to PNG or JPEG"
_OTHER_FORMATS = (
    (rb"version https://git-lfs", "it is a Git LFS pointer and not the file itself; run: git lfs pull"),
    (rb"\s*<(!doctype|html|\?xml)", f"it is a web page or XML and not the file itself; {REDOWNLOAD}"),
    (rb"RIFF....WEBP", f"it is a WEBP by its content; {_CONVERT}"),
    (rb"GIF8", f"it is a GIF by its content; {_CONVERT}"),
    (rb"BM....\0\0\0\0", f"it is a BMP by its content; {_CONVERT}"),
    (rb"II\*\0|MM\0\*", f"it is a TIFF by its content; {_CONVERT}"),
    (rb"....ftyp(hei|hev|mif1|avif)", f"it is a HEIC or AVIF by its content; {_CONVERT}"),
    (rb"\0*$", f"it is empty or all zeros; {REDOWNLOAD}"),
)
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # at half of the limit, without a file name


class UndecodableImage(DataError):
    """A PNG or JPEG cannot be decoded. `raykd pack --skip-damaged` leaves such images out."""


@dataclass(frozen=True)
class TargetSize:
    """The size of decoded images, and how images of another size are handled.

    image_size: pixels per side. refusal: the end of the error for an image of another size; None to resize it.
    center_crop: the side of the middle square that is resized, as a fraction of the image's shorter side.
    """

    image_size: int
    refusal: str | None = None
    center_crop: float = 1.0


@dataclass(frozen=True)
class DecodedImage:
    """A decoded image.

    pixels: uint8 [image_size, image_size, 3]. maximum_16_bit: the highest value before resizing, for a PNG with 16 bits
    per channel; else None. Pillow reads only the upper 8 bits of 16-bit color, so the true maximum may be up to 255
    lower.
    """

    pixels: np.ndarray
    maximum_16_bit: int | None = None


def decode(where: str, encoded: bytes, target: TargetSize) -> DecodedImage:
    """Decode one image.

    Raises DataError, which begins with `where`, for bytes that are no image and for a size that is refused.
    """
    size = (target.image_size, target.image_size)
    stripped = strip_metadata(encoded)
    with _opened(where, stripped) as image:
        width, height = image.size  # known before the pixels are decoded: refusing a huge image costs nothing
        if (width, height) == size or target.refusal is None:
            rgb = _as_rgb(image)
            maximum = _maximum_16_bit(image, rgb) if stripped.bits == 16 else None
            return DecodedImage(middle_square(_upright(rgb, stripped), target), maximum)
    raise DataError(f"{where} is {width}x{height} pixels; {target.refusal}")


def require_complete(where: str, encoded: bytes, target: TargetSize) -> None:
    """Check the header and the end of an image. Only one without an end is decoded, to see whether pixels are missing.

    Raises DataError, which begins with `where`, for bytes that are no image and for a size that is refused.
    """
    stripped = strip_metadata(encoded)
    with _opened(where, stripped) as image:
        width, height = image.size
    if target.refusal is not None and (width, height) != (target.image_size, target.image_size):
        raise DataError(f"{where} is {width}x{height} pixels; {target.refusal}")
    if (PNG_END if encoded.startswith(PNG) else JPEG_END) not in encoded[-_END_BYTES:]:
        decode(where, encoded, target)


def decode_whole(where: str, encoded: bytes) -> np.ndarray:
    """Decode one image without resizing it: uint8 [H, W, 3]. Raises DataError, which begins with `where`."""
    stripped = strip_metadata(encoded)
    with _opened(where, stripped) as image:
        return np.asarray(_upright(_as_rgb(image), stripped))


def middle_square(rgb: Image.Image, target: TargetSize) -> np.ndarray:
    """Return the middle square of an RGB image, resized to the target's size: uint8 [image_size, image_size, 3]."""
    size, (width, height) = (target.image_size, target.image_size), rgb.size
    if rgb.size == size and target.center_crop == 1:
        return np.asarray(rgb)
    side = target.center_crop * min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return np.asarray(rgb.resize(size, Image.Resampling.BICUBIC, (left, top, left + side, top + side)))


def decode_all(
    pixels: np.ndarray, read: Callable[[int], tuple[str, bytes]], target: TargetSize
) -> list[tuple[str, int]]:
    """Fill uint8 [N, image_size, image_size, 3]; `read` returns the source of image i, for messages, and its bytes.

    Returns: (source, highest value) of each image with 16 bits per channel, for `require_full_range`.
    Raises DataError for the first image that is refused, and UndecodableImage for damaged ones, with the first of them
    and their number among the first _COUNTED images.
    """
    maxima: list[tuple[str, int]] = []
    damaged: list[UndecodableImage] = []

    def fill(index: int) -> tuple[str, int] | UndecodableImage | None:
        where, encoded = read(index)
        try:
            decoded = decode(where, encoded, target)
        except UndecodableImage as error:
            return error
        pixels[index] = decoded.pixels
        return None if decoded.maximum_16_bit is None else (where, decoded.maximum_16_bit)

    for first in range(0, len(pixels), _CHUNK):
        end = min(first + _CHUNK, len(pixels))
        for found in map_in_threads(fill, range(first, end)):
            if isinstance(found, UndecodableImage):
                damaged.append(found)
            elif found is not None:
                maxima.append(found)
        if damaged and end >= min(_COUNTED, len(pixels)):
            raise UndecodableImage(f"{damaged[0]}; {len(damaged)} of {end:,} images that were read cannot be decoded")
    return maxima


def require_full_range(maxima: Sequence[tuple[str, int]]) -> None:
    """Raise DataError for 16-bit images that use fewer bits: only the upper 8 bits are read, which are then nearly 0.

    maxima: what `decode_all` returned. A fraction of _MAX_DARK may be dark. An image that is black throughout loses
    nothing, so it does not count as dark.
    """
    dark = [(where, maximum) for where, maximum in maxima if 0 < maximum < _DARK]
    if len(dark) > _MAX_DARK * len(maxima):
        where, maximum = dark[0]
        raise DataError(
            f"{where}: its values of 16 bits go up to {maximum:,} at most, of 65,535, as in {len(dark)} of "
            f"{len(maxima)} such images; only the upper 8 bits are read, which leaves {maximum // 256 + 1} of 256 "
            "levels: multiply the values to fill 16 bits, or store 8 bits"
        )


def map_in_threads(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """Return function(item) for each item, in order. Reading, hashing and decoding release the GIL."""
    results: list[Any] = []
    with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1), thread_name_prefix="raykd-images") as threads:
        for first in range(0, len(items), _CHUNK):
            results += threads.map(function, items[first : first + _CHUNK])
    return results


@dataclass(frozen=True)
class ReducedImage:
    """An image that may be decoded at a reduced size.

    rgb: the upright image. height, width: its pixels at full size, also upright. maximum_16_bit: as in DecodedImage.
    """

    rgb: Image.Image
    height: int
    width: int
    maximum_16_bit: int | None


def decode_reduced(where: str, encoded: bytes, at_least: int) -> ReducedImage:
    """Decode one image. A JPEG is decoded at 1/8, 1/4 or 1/2 of its size if that leaves `at_least` pixels per side.

    Raises DataError, which begins with `where`, for bytes that are no image.
    """
    stripped = strip_metadata(encoded)
    with _opened(where, stripped) as image:
        width, height = image.size
        if image.format == "JPEG":
            image.draft(None, (at_least, at_least))
        image.load()  # while the file is open, and its errors are turned into a DataError
        rgb = _as_rgb(image)
        maximum = _maximum_16_bit(image, rgb) if stripped.bits == 16 else None
        if stripped.orientation in QUARTER_TURNS:
            width, height = height, width
        return ReducedImage(_upright(rgb, stripped), height, width, maximum)


def target_size(image_size: int | None, read_first: Callable[[], tuple[str, bytes]]) -> TargetSize:
    """Return `image_size` if it is set; otherwise the size of the first image, which all must then have.

    read_first: returns the source of the first image, for messages, and its bytes.
    """
    if image_size is not None:
        return TargetSize(image_size)
    size = square_size(*read_first())
    return TargetSize(
        size,
        f"the first is {size}x{size}, and a run requires one size; give it with --set data.image_size={size}: "
        "the middle of each image is resized to it",
    )


def square_size(where: str, encoded: bytes) -> int:
    """Return the pixels per side of an image. Raises DataError if it is no square, or no image."""
    with _opened(where, strip_metadata(encoded)) as image:
        width, height = image.size
    if width != height:
        raise DataError(
            f"{where} is {width}x{height} pixels, and a run requires squares of one size; give it with "
            f"--set data.image_size={min(width, height)}: the middle of each image is resized to it"
        )
    return width


def describe_other_format(encoded: bytes) -> str | None:
    """Return the format of a file that is neither PNG nor JPEG, with the remedy; None if it is not recognized."""
    return next((text for pattern, text in _OTHER_FORMATS if re.match(pattern, encoded[:64], re.DOTALL | re.I)), None)


@contextmanager
def _opened(where: str, stripped: StrippedImage) -> Iterator[Image.Image]:
    """Open an image. An error of Pillow inside the context becomes a DataError that begins with `where`."""
    try:
        with Image.open(io.BytesIO(stripped.encoded), formats=_FORMATS) as image:
            yield image
    except UnidentifiedImageError as error:
        if stripped.encoded.startswith((PNG, JPEG)):
            raise _undecodable(where, "damaged, or of a kind that Pillow does not read") from error
        remedy = describe_other_format(stripped.encoded) or "store one of these"
        raise DataError(f"{where} is no PNG or JPEG; {remedy}") from error
    except Image.DecompressionBombError as error:
        pixels, limit = (f"{int(number):,}" for number in re.findall(r"\d+", str(error))[:2])
        raise DataError(f"{where} has {pixels} pixels, and {limit} is the limit; make it smaller") from error
    except (DataError, MemoryError):
        raise
    except Exception as error:  # Pillow passes on its decoders' errors: struct.error, OverflowError and others
        if "memory" in str(error):  # OSError of a decoder whose allocation failed
            raise MemoryError(str(error)) from error
        raise _undecodable(where, " ".join(str(error).split()) or type(error).__name__) from error


def _undecodable(where: str, reason: str) -> DataError:
    return UndecodableImage(
        f"{where} is a PNG or JPEG that cannot be decoded ({reason}); {REDOWNLOAD}, or save it again as PNG"
    )


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn and mirror uint8 [h, w, 3] as an EXIF orientation, 1 to 8, requires, without a copy."""
    if orientation in _MIRRORED:
        pixels = pixels[:, ::-1]
    return np.rot90(pixels, _QUARTERS_TO_THE_LEFT[orientation])


def _upright(rgb: Image.Image, stripped: StrippedImage) -> Image.Image:
    if stripped.orientation == UPRIGHT:
        return rgb
    return Image.fromarray(turned(np.asarray(rgb), stripped.orientation))


def _maximum_16_bit(image: Image.Image, rgb: Image.Image) -> int:
    """Return the highest value of a 16-bit image. rgb: the same image with 8 bits."""
    if image.mode.startswith("I"):
        return int(np.asarray(image).max())
    return int(np.asarray(rgb).max()) * 256 + 255


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit gray; Pillow would clip values above 255
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if image.mode == "P":
        image = image.convert("RGBA")  # Pillow warns of a transparent palette otherwise
    return image if image.mode == "RGB" else image.convert("RGB")
