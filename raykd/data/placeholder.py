"""A stand-in for a data set on disk before its images are decoded or packed: what is known of its list of images.

An experiment is checked on it before hours of packing. Its images are noise, and its labels are in equal proportion.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from raykd.data.sources import ImageSource
from raykd.data.storage import decoded_size
from raykd.data.types import Dataset, Split, UndecodedImages

_MEAN, _STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


@dataclass(frozen=True)
class NoiseImages(UndecodedImages):
    """`count` images of uniform noise, uint8 [count, 3, size, size], as `ImagesOnDisk`."""

    def __getitem__(self, indices: slice | Tensor) -> Tensor:
        num_images = len(indices) if isinstance(indices, Tensor) else len(range(self.count)[indices])
        shape, generator = (num_images, 3, self.size, self.size), torch.Generator().manual_seed(0)
        noise = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        return noise.contiguous(memory_format=torch.channels_last)

    def subset(self, indices: Tensor) -> "NoiseImages":
        return NoiseImages(len(indices), self.size)


def placeholder_dataset(name: str, source: ImageSource, image_size: int | None) -> Dataset:
    """Return the data set `name` with the classes, the number and the size of the images of `source`.

    Only the header of the first image is read, if image_size is None. Mean and std are placeholders.
    """
    size, num_classes = decoded_size(source, image_size), len(source.class_names)
    train, test = (Split(NoiseImages(count, size), torch.arange(count) % num_classes) for count in source.num_images)
    return Dataset(name, train, test, source.class_names, _MEAN, _STD, "", source.notes)
