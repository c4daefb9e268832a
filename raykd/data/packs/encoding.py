"""Prepare one image for a pack: check it, copy its bytes or encode it again, and sum up its pixels.

    original    the bytes as they are
    jpeg        the shorter side reduced to `shorter_side`, bicubic and antialiased, never enlarged; upright, as JPEG.
                The bytes of images that are small enough are copied.
    raw         the pixels of the middle square at `square_size`, as image_decoding.py decodes them for evaluation

Mean and standard deviation are those of the middle square at SUMMED_SIDE pixels, or unresized if it is smaller. They
are computed from sums of integers, so the division into shards does not change them. For them, a JPEG is decoded at
1/8, 1/4 or 1/2 of its size. This still reads all of its bytes, and so checks them.
"""

import io
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from raykd.data import image_decoding
from raykd.data.image_decoding import TargetSize
from raykd.data.sources import EncodedImage
from raykd.errors import ConfigError

DEFAULT_QUALITY = 95
SUMMED_SIDE = 64  # pixels
MAX_SIDE = 4096  # pixels, of --resize and --raw
_REDUCING_GAP = 2  # a JPEG is decoded at twice the resized side at least; less would blur the result


@dataclass(frozen=True)
class PackOptions:
    """How images are stored in a pack.

    shorter_side: pixels of --resize. quality: of its JPEG encoder, 1 to 100. square_size: pixels per side of --raw.
    skip_damaged: the greatest number of damaged images that are left out; one more is an error.
    """

    shorter_side: int | None = None
    quality: int = DEFAULT_QUALITY
    square_size: int | None = None
    skip_damaged: int = 0

    def __post_init__(self) -> None:
        sides = {"--resize": self.shorter_side, "--raw": self.square_size}
        for flag, side in sides.items():
            if side is not None and not 1 <= side <= MAX_SIDE:
                raise ConfigError(f"{flag} {side}: must lie in [1, {MAX_SIDE}] pixels")
        if None not in sides.values():
            raise ConfigError("--resize and --raw exclude each other: raw pixels are squares already; leave one out")
        if not 1 <= self.quality <= 100:
            raise ConfigError(f"--quality {self.quality}: must lie in [1, 100]")
        if self.quality != DEFAULT_QUALITY and self.shorter_side is None:
            raise ConfigError(f"--quality {self.quality}: has no effect without --resize; leave it out")
        if self.skip_damaged < 0:
            raise ConfigError(f"--skip-damaged {self.skip_damaged}: must be 0 or more")

    @property
    def encoding(self) -> Literal["original", "jpeg", "raw"]:
        """The form in which images are stored, as in PackRecord."""
        if self.square_size is not None:
            return "raw"
        return "original" if self.shorter_side is None else "jpeg"

    @property
    def described(self) -> str:
        """The options that change the bytes, in messages: 'with --resize 256'."""
        if self.shorter_side is not None:
            quality = "" if self.quality == DEFAULT_QUALITY else f" --quality {self.quality}"
            return f"with --resize {self.shorter_side}{quality}"
        return f"with --raw {self.square_size}" if self.square_size is not None else "without --resize and --raw"

    @property
    def key(self) -> str:
        """A text with every option that affects the bytes of a shard."""
        quality = self.quality if self.encoding == "jpeg" else None
        return f"{self.encoding} {self.shorter_side} {quality} {self.square_size}"


class PreparedImage(NamedTuple):
    """An image as a pack stores it.

    encoded: the bytes in the pack. height, width: pixels of the upright image there.
    summed: uint8 [s, s, 3], the square from which mean and std are computed. maximum_16_bit: as in DecodedImage.
    """

    encoded: bytes
    height: int
    width: int
    summed: np.ndarray
    maximum_16_bit: int | None


def prepare(image: EncodedImage, options: PackOptions) -> PreparedImage:
    """Return the image as the pack stores it. Raises DataError if it cannot be decoded."""
    if options.square_size is not None:
        decoded = image_decoding.decode(image.where, image.encoded, TargetSize(options.square_size))
        pixels, side = decoded.pixels, options.square_size
        return PreparedImage(pixels.tobytes(), side, side, pixels, decoded.maximum_16_bit)
    at_least = SUMMED_SIDE if options.shorter_side is None else _REDUCING_GAP * options.shorter_side
    whole = image_decoding.decode_reduced(image.where, image.encoded, at_least)
    encoded, rgb, (height, width) = image.encoded, whole.rgb, (whole.height, whole.width)
    shorter = min(height, width)
    if options.shorter_side is not None and shorter > options.shorter_side:
        side = options.shorter_side
        height, width = round(height * side / shorter), round(width * side / shorter)
        rgb = rgb.resize((width, height), Image.Resampling.BICUBIC)
        encoded, shorter = _as_jpeg(rgb, options.quality), side
    summed = image_decoding.middle_square(rgb, TargetSize(min(shorter, SUMMED_SIDE)))
    return PreparedImage(encoded, height, width, summed, whole.maximum_16_bit)


def _as_jpeg(rgb: Image.Image, quality: int) -> bytes:
    stream = io.BytesIO()
    rgb.save(stream, "JPEG", quality=quality)
    return stream.getvalue()
