"""A pack as a data set: its identity, and decoding it into memory.

The identity of a pack of original bytes is that of its source at the same image size, so that runs are the same with
and without packing. Images that were encoded again are other images, except for squares of raw pixels at their size.
"""

import hashlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from raykd.data import image_decoding, image_folder, memory
from raykd.data.image_decoding import TargetSize
from raykd.data.pack import Pack, PackedSplit, PackRecord
from raykd.data.sources import identity_at_size
from raykd.data.types import Split, StoredDataset
from raykd.errors import DataError


def find(place: Path, image_size: int | None) -> StoredDataset:
    """Open the pack in `place`, as a data set that can be decoded into memory.

    image_size: pixels per side; None if all images of the pack are squares of one size.
    Raises DataError for no pack, a damaged one, or images of several sizes.
    """
    if not place.is_dir():
        raise DataError(f"{place}: no such folder; pack a data set with: python -m raykd pack NAME")
    pack = Pack(place)
    size = size_of(pack, image_size)

    def decode() -> tuple[Split, Split]:
        memory.require_memory(place, len(pack.train) + len(pack.test), size)
        return _decode(pack.train, pack.record, size), _decode(pack.test, pack.record, size)

    record = pack.record
    return StoredDataset(identity_of(pack, size), size, record.class_names, decode, record.statistics, record.notes)


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
    change = _change(record, image_size)
    return hashlib.sha256(f"{identity} {change}".encode()).hexdigest() if change else identity


def _change(record: PackRecord, image_size: int) -> str:
    """Return how the pack's images differ from the original ones at `image_size`, '' if they do not."""
    if record.encoding == "jpeg":
        return f"shorter side {record.shorter_side} as JPEG of quality {record.quality}"
    is_resized = record.encoding == "raw" and record.square_size != image_size
    return f"from squares of {record.square_size}" if is_resized else ""


def _decode(split: PackedSplit, record: PackRecord, image_size: int) -> Split:
    """Return all images of a split, decoded in several threads."""
    pixels = np.empty((len(split), image_size, image_size, 3), dtype=np.uint8)
    if record.encoding == "raw":
        side = record.square_size
        assert side is not None, "raw images are squares of one size"

        def fill(index: int) -> None:
            square = np.frombuffer(split.read(index)[1], np.uint8).reshape(side, side, 3)
            pixels[index] = image_decoding.middle_square(Image.fromarray(square), TargetSize(image_size))

        image_decoding.map_in_threads(fill, range(len(split)))
    else:

        def read(index: int) -> tuple[str, bytes]:
            where, encoded = split.read(index)
            return where, bytes(encoded)

        image_decoding.decode_all(pixels, read, TargetSize(image_size))
    return Split(torch.from_numpy(pixels).permute(0, 3, 1, 2), split.labels)  # channels-last strides
