"""The encoded images of the data-loading benchmark: generated photos, or those of a data set."""

import io
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from raykd.data.dataset_names import folder_of, kind_of
from raykd.data.load import find_source
from raykd.data.packs.reader import Pack
from raykd.errors import ConfigError

WIDTH, HEIGHT = 500, 375  # pixels, the usual size in ImageNet
QUALITY = 88  # JPEG quality; the photos have 48 KB on average
_OCTAVES = 8  # octaves of noise, each with twice the frequency of the one before
_FALLOFF = 0.7  # amplitude of an octave relative to the one before; natural images have 0.5 to 0.7
_GRAY_WEIGHT = 0.8  # weight of the noise that all channels share; the rest is the weight of each channel's noise
_MEAN, _DEVIATION = 120, 50  # gray levels


def generate_photos(num_images: int, num_different: int = 64) -> list[bytes]:
    """Return JPEGs of WIDTH x HEIGHT pixels with the spectrum of photos, at most `num_different` of them different."""
    photos = [_encode(_noise_photo(seed)) for seed in range(min(num_images, num_different))]
    return [photos[number % len(photos)] for number in range(num_images)]


def first_images(name: str, folder: Path, num_images: int) -> list[bytes]:
    """Return the encoded bytes of the first training images of the data set `name`; see dataset_names.py.

    Raises ConfigError or DataError for a data set that does not exist or is not stored as encoded images.
    """
    if kind_of(name) == "packed":
        pack = Pack(folder_of(name, folder))
        if pack.record.encoding == "raw":
            raise ConfigError(f"bench --data {name}: a raw pack has no encoded images; name a pack made without --raw")
        split = pack.train
        return [bytes(split.read(index)[1]) for index in range(min(num_images, len(split)))]
    train, _ = find_source(name, folder).units()
    return [image.encoded for image in islice((image for unit in train for image in unit.images()), num_images)]


def _noise_photo(seed: int) -> np.ndarray:
    """Return uint8 [HEIGHT, WIDTH, 3]: the sum of octaves of noise, each interpolated to the full size."""
    generator = np.random.default_rng(seed)
    pixels = np.zeros((HEIGHT, WIDTH, 3), dtype=np.float32)
    for octave in range(1, _OCTAVES + 1):
        size = (max(2, HEIGHT >> (_OCTAVES - octave)), max(2, WIDTH >> (_OCTAVES - octave)))
        noise = [generator.standard_normal(size).astype(np.float32) for _ in range(4)]
        gray, *colors = (np.asarray(Image.fromarray(part).resize((WIDTH, HEIGHT))) for part in noise)
        pixels += (_GRAY_WEIGHT * gray[..., None] + (1 - _GRAY_WEIGHT) * np.stack(colors, axis=-1)) * _FALLOFF**octave
    normalized = (pixels - pixels.mean()) / pixels.std()
    return (_MEAN + _DEVIATION * normalized).clip(0, 255).astype(np.uint8)


def _encode(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=QUALITY)
    return stream.getvalue()
