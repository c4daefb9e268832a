"""The choice between decoding all images once, into memory, and decoding them from a pack in each step."""

from dataclasses import dataclass
from typing import Literal

from raykd.data import image_decoding
from raykd.data.sources import ImageSource
from raykd.units import capacity

MAX_FRACTION_OF_MEMORY = 1 / 4  # of what is free: workers, views and caches need the rest


@dataclass(frozen=True)
class StorageChoice:
    """Where the images of a run are. reason: a sentence for the plan and the log."""

    storage: Literal["memory", "disk"]
    reason: str


def choose_storage(
    requested: Literal["auto", "memory", "disk"],
    num_images: int,
    image_size: int,
    has_crops_of_whole_images: bool,
    available: int | None,
) -> StorageChoice:
    """Return whether the images of a run are decoded into memory, or read from a pack on disk in each step.

    Args: requested is `data.storage`. num_images is the number of training and test images. image_size is in pixels
        per side, see `decoded_size`. available is in bytes, see memory.py; None if unknown, which counts as enough.
    """
    if requested == "memory":
        return StorageChoice("memory", "images are decoded into memory, because data.storage = memory")
    if requested == "disk":
        return StorageChoice("disk", "images are decoded in each step, because data.storage = disk")
    if has_crops_of_whole_images:
        return StorageChoice("disk", "images are decoded in each step: data.min_crop_area crops whole images")
    num_bytes = 3 * num_images * image_size**2
    size = f"{num_images:,} images of {image_size}x{image_size} pixels take {capacity(num_bytes)}"
    if available is None:
        return StorageChoice("memory", f"images are decoded into memory: {size}")
    free = f"of {capacity(available)} that are free"
    if num_bytes <= MAX_FRACTION_OF_MEMORY * available:
        return StorageChoice("memory", f"images are decoded into memory: {size}, at most a quarter {free}")
    return StorageChoice("disk", f"images are decoded in each step: {size}, more than a quarter {free}")


def decoded_size(source: ImageSource, image_size: int | None) -> int:
    """Return the pixels per side of the decoded images: `image_size`, or the size of the first one.

    Only the header of that image is read. Raises DataError if it is no square.
    """
    return image_decoding.target_size(image_size, source.first_image).image_size
