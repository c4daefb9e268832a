"""A data set on disk as a plan reads it: all labels, but only the first images and a sample of the images decoded.

A plan requires the labels and the identity of a data set, and checks networks on its first images. The run decodes all
images.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from math import ceil

import numpy as np
import torch
from torch import Tensor

from raykd.data import image_decoding
from raykd.data.image_decoding import TargetSize
from raykd.data.sources import EncodedImage, ImageSource
from raykd.data.types import Split, UndecodedImages, UndecodedSplits
from raykd.errors import DataError

MAX_SAMPLED, MAX_SAMPLED_BYTES = 256, 16_000_000  # images of both splits, and their encoded bytes; less than a second
_MIN_SAMPLED = 16  # of photos, which have some MB each


@dataclass(frozen=True)
class FirstImages(UndecodedImages):
    """Images with the interface of `ImagesOnDisk`. Accessing one decodes it and all images before it.

    So only accessing the first ones is fast. read: returns the first n images, uint8 [n, 3, size, size], channels-last
    strides.
    """

    read: Callable[[int], Tensor]

    def __getitem__(self, indices: slice | Tensor) -> Tensor:
        wanted = torch.arange(self.count)[indices]
        return self.read(int(wanted.max()) + 1 if len(wanted) else 0)[wanted]

    def subset(self, indices: Tensor) -> "FirstImages":
        return FirstImages(len(indices), self.size, lambda n: self[indices[:n]])


def sample_of(source: ImageSource, target: TargetSize) -> UndecodedSplits:
    """Decode a sample of the images of `source`, spread over both splits.

    Raises DataError for a label, and for an image of the sample, that `StoredDataset.decode` would refuse.
    """
    num_images = sum(source.num_images)
    num_bytes = sum(unit.num_bytes for units in source.units() for unit in units)
    affordable = max(_MIN_SAMPLED, num_images * MAX_SAMPLED_BYTES // max(1, num_bytes))
    nth = ceil(num_images / min(MAX_SAMPLED, affordable))
    (sample, maxima), (_, test_maxima) = (_decoded(images, target) for images in source.every_nth(nth))
    train, test = (
        Split(FirstImages(len(labels), target.image_size, partial(_first_of, source, target, part)), labels)
        for part, labels in enumerate(source.labels())
    )
    pixels = sample.pixels
    has_constant_channel = bool((pixels.amin((0, 2, 3)) == pixels.amax((0, 2, 3))).any())
    return UndecodedSplits(train, test, sample, has_constant_channel or _has_dark_images((maxima, test_maxima)))


def _has_dark_images(maxima: Iterable[Sequence[tuple[str, int]]]) -> bool:
    """Return whether images with 16 bits per channel seem to use fewer. maxima: those of each split."""
    try:
        for split in maxima:
            image_decoding.require_full_range(split)
    except DataError:
        return True
    return False


def _first_of(source: ImageSource, target: TargetSize, part: int, count: int) -> Tensor:
    """Return the first images of the training split (part 0) or the test split (part 1)."""
    return _decoded(islice(source.every_nth(1)[part], count), target)[0].pixels


def _decoded(images: Iterable[EncodedImage], target: TargetSize) -> tuple[Split, list[tuple[str, int]]]:
    """Return the decoded images and their labels, and what `image_decoding.decode_all` returns."""
    encoded = list(images)
    pixels = np.empty((len(encoded), target.image_size, target.image_size, 3), dtype=np.uint8)
    maxima = image_decoding.decode_all(pixels, lambda i: encoded[i][:2], target)
    labels = torch.tensor([image.label for image in encoded], dtype=torch.int64)
    return Split(torch.from_numpy(pixels).permute(0, 3, 1, 2), labels), maxima
