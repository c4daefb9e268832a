"""A packed data set that stays on disk: images are decoded when they are accessed.

    open_packed(folder, "packed:imagenet-256", image_size=224, center_crop=0.875, loaders=8)

Its identity is that of the same data set in memory, so runs are the same.
"""

from pathlib import Path

import torch

from raykd.data.image_decoding import TargetSize
from raykd.data.loader_threads import LoaderThreads
from raykd.data.pack import Pack, PackedSplit
from raykd.data.packed_dataset import identity_of, size_of
from raykd.data.packed_images import PackedImages
from raykd.data.types import Dataset, Split, constant_channels


def open_packed(
    place: Path, name: str, image_size: int | None, center_crop: float = 1.0, loaders: int | None = None
) -> Dataset:
    """Open the pack in the folder `place` as the data set `name`. No image is decoded.

    Args:
        image_size: pixels per side of the views; None if all images of the pack are squares of one size.
        center_crop: the side of the middle square that evaluation shows, as a fraction of the shorter side.
        loaders: threads that decode images; None for as many as torch computes with.
    Raises DataError for no pack, a damaged one, or images of several sizes without image_size.
    """
    pack = Pack(place)
    record, size = pack.record, size_of(pack, image_size)
    threads, target = LoaderThreads(loaders or torch.get_num_threads()), TargetSize(size, center_crop=center_crop)
    raw_size = record.square_size if record.encoding == "raw" else None

    def split(rows: PackedSplit) -> Split:
        return Split(PackedImages(rows, target, threads, raw_size), rows.labels)

    mean, std = record.statistics
    notes = (*record.notes, *constant_channels(mean, std))
    train, test, classes = split(pack.train), split(pack.test), record.class_names
    return Dataset(name, train, test, classes, mean, std, identity_of(pack, size), notes)
