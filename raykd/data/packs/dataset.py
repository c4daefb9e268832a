"""A pack as a data set, on disk or decoded into memory.

    open_packed(place, "packed:imagenet-256", image_size=224, center_crop=0.875, loaders=8)    a Dataset on disk
    find_packed(place, image_size=32)                                                          a StoredDataset to decode

The identity of a pack of original bytes is that of its source at the same image size. Images that were encoded again
count as other images, and so do squares of raw pixels, even at their size.
"""

import hashlib
from pathlib import Path

import numpy as np

from raykd.data import image_folder, memory
from raykd.data.image_decoding import TargetSize
from raykd.data.loader_threads import LoaderThreads
from raykd.data.packs.images import PackedImages
from raykd.data.packs.reader import Pack, PackedSplit
from raykd.data.packs.record import PackRecord
from raykd.data.sources import identity_at_size
from raykd.data.types import Dataset, Split, StoredDataset, UndecodedSplits, constant_channels
from raykd.errors import DataError

_SAMPLED = 16  # images that a plan decodes: the pack's checksums and the command that packed them vouch for the others


def find_packed(place: Path, image_size: int | None) -> StoredDataset:
    """Open the pack in `place`, as a data set that can be decoded into memory.

    image_size: pixels per side; None if all images of the pack are squares of one size.
    Raises DataError for a missing or damaged pack, or for images of several sizes.
    """
    pack = Pack(place)
    record, size = pack.record, size_of(pack, image_size)

    def decode() -> tuple[Split, Split]:
        memory.require_memory(place, len(pack.train) + len(pack.test), size)
        target, threads = TargetSize(size), LoaderThreads(None)
        train, test = (
            Split(_images_of(split, record, target, threads)[:], split.labels) for split in (pack.train, pack.test)
        )
        return train, test

    def sample() -> UndecodedSplits:
        target, threads = TargetSize(size), LoaderThreads(1)
        train, test = (
            Split(_images_of(split, record, target, threads), split.labels) for split in (pack.train, pack.test)
        )
        return UndecodedSplits(train, test, Split(train.images[:_SAMPLED], train.labels[:_SAMPLED]))

    identity, names, statistics = identity_of(pack, size), record.class_names, record.statistics
    return StoredDataset(identity, size, names, decode, sample, statistics, record.notes, record.resizing)


def open_packed(
    place: Path, name: str, image_size: int | None, center_crop: float = 1.0, loaders: int | None = None
) -> Dataset:
    """Open the pack in the folder `place` as the data set `name`, whose images stay on disk. None is decoded.

    Args:
        image_size: pixels per side of the views; None if all images of the pack are squares of one size.
        center_crop: the side of the middle square that evaluation shows, as a fraction of the shorter side.
        loaders: threads that decode images; None for as many as torch computes with when the first one is decoded.
    Raises DataError for a missing or damaged pack, or for images of several sizes without image_size.
    """
    pack = Pack(place)
    record, size = pack.record, size_of(pack, image_size)
    target, threads, (mean, std) = TargetSize(size, center_crop=center_crop), LoaderThreads(loaders), record.statistics
    train, test = (Split(_images_of(split, record, target, threads), split.labels) for split in (pack.train, pack.test))
    notes = (*record.notes, *constant_channels(mean, std))
    return Dataset(name, train, test, record.class_names, mean, std, identity_of(pack, size), notes, record.resizing)


def size_of(pack: Pack, image_size: int | None) -> int:
    """Return `image_size` if it is set, else that of all images. Raises DataError if they have several sizes."""
    size = image_size or pack.record.square_size
    if size is None:
        height, width = pack.train.sizes[0].tolist()
        raise DataError(
            f"{pack.folder}: its images are no squares of one size (the first has {width}x{height} pixels); set the "
            "size of the squares that runs see, such as --set data.image_size=224"
        )
    return size


def identity_of(pack: Pack, image_size: int) -> str:
    """Return the identity of the data set in a pack at `image_size`, hex."""
    record = pack.record
    if record.kind == "folder":
        splits = ((pack.train, pack.train_digests), (pack.test, pack.test_digests))
        parts = [(split.labels.tolist(), list(map(bytes, digests))) for split, digests in splits]
        identity = image_folder.identity_of(record.class_names, parts, image_size)
    else:
        identity = identity_at_size(record.content, image_size)
        if record.num_skipped:  # the files have more images than the pack
            digests = np.concatenate([pack.train_digests, pack.test_digests])
            identity = hashlib.sha256(identity.encode() + digests.tobytes()).hexdigest()
    change = _change(record)
    return hashlib.sha256(f"{identity} {change}".encode()).hexdigest() if change else identity


def _change(record: PackRecord) -> str:
    """Return the difference between the pack's images and the original ones, in words; '' for none."""
    if record.encoding == "jpeg":
        return f"shorter side {record.shorter_side} as JPEG of quality {record.quality}"
    # Also for squares at `image_size`: random crops show less of a square, and its mean and std are other values.
    return f"from squares of {record.square_size}" if record.encoding == "raw" else ""


def _images_of(split: PackedSplit, record: PackRecord, target: TargetSize, threads: LoaderThreads) -> PackedImages:
    return PackedImages(split, target, threads, record.square_size if record.encoding == "raw" else None)
