"""Compare the disk space that a pack requires with the free space, before anything is written."""

import os
import shutil
from bisect import bisect_right
from collections.abc import Sequence
from itertools import islice
from math import isqrt
from pathlib import Path

from raykd.data import image_decoding
from raykd.data.packs.encoding import PackOptions, prepare
from raykd.data.packs.errors import TO_ANOTHER_FOLDER, Alternative, PackError
from raykd.data.packs.shard import ShardTask
from raykd.data.sources import EncodedImage
from raykd.disk.lookup import is_folder
from raykd.errors import DataError
from raykd.units import capacity

_BYTES_PER_ROW = 100  # label, checksum, offset and the index's row, before and after the pack is complete
_SAMPLED_UNITS, _SAMPLED_IMAGES = 16, 4  # the size of a sample: units, and images of each unit
_MIN_SIDE, _STEP = 32, 16  # pixels of the sizes for --resize that an error proposes


def require_space(folder: Path, tasks: Sequence[ShardTask], options: PackOptions) -> None:
    """Raise DataError if the shards of `tasks` do not fit on the disk of `folder`, or if it cannot be written.

    If there is too little space, the error has the option for the largest images that fit.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if is_folder(path))
    if not os.access(existing, os.W_OK | os.X_OK):
        raise PackError(f"{folder}: cannot be written, for lack of permission in {existing}", "", TO_ANOTHER_FOLDER)
    disk, required = shutil.disk_usage(existing), required_bytes(tasks, options)
    if required <= disk.free or not disk.total:  # some filesystems do not report their size
        return
    smaller = _largest_that_fits(tasks, options, disk.free)
    raise PackError(
        f"{folder}: packing requires {capacity(required)}, and {capacity(disk.free)} are free on its disk"
        f"{'' if smaller else ', where smaller images do not fit either'}",
        "free some",
        Alternative("pack onto another disk", "--to FOLDER"),
        *([Alternative("store smaller images", smaller)] if smaller else []),
    )


def required_bytes(tasks: Sequence[ShardTask], options: PackOptions) -> int:
    """Return the size of the shards of `tasks` in bytes.

    It is exact for original images, apart from Parquet's row groups, and for raw ones. It is estimated from a sample
    if images are encoded again.
    """
    num_images = sum(task.unit.num_images for task in tasks)
    if options.square_size is not None:
        return num_images * (3 * options.square_size**2 + _BYTES_PER_ROW)
    num_bytes = sum(task.unit.num_bytes for task in tasks)
    factor = 1.0 if options.shorter_side is None else _size_factor(_sample(tasks), options)
    return int(num_bytes * factor) + num_images * _BYTES_PER_ROW


def _largest_that_fits(tasks: Sequence[ShardTask], options: PackOptions, free: int) -> str:
    """Return the option with the largest images that fit in `free` bytes, '' if none do."""
    num_images = sum(task.unit.num_images for task in tasks)
    num_bytes = sum(task.unit.num_bytes for task in tasks)
    available = free - num_images * _BYTES_PER_ROW
    if options.square_size is not None:
        side = isqrt(max(0, available) // (3 * num_images))
        return f"--raw {side}" if side else ""
    sample = _sample(tasks)
    largest = options.shorter_side or max(map(_shorter_side, sample), default=0)
    sides = range(_MIN_SIDE, largest + 1, _STEP)

    def bytes_at(side: int) -> float:
        return num_bytes * _size_factor(sample, PackOptions(shorter_side=side, quality=options.quality))

    num_fitting = bisect_right(sides, available, key=bytes_at)  # the sample is encoded at few sizes, since that is slow
    return f"--resize {sides[num_fitting - 1]}" if num_fitting else ""


def _sample(tasks: Sequence[ShardTask]) -> list[EncodedImage]:
    """Return the first images of units that are spread over the data set."""
    step = max(1, len(tasks) // _SAMPLED_UNITS)
    return [image for task in tasks[::step] for image in islice(task.unit.images(), _SAMPLED_IMAGES)]


def _shorter_side(image: EncodedImage) -> int:
    """Return the pixels of the shorter side, 0 for a damaged image."""
    try:
        whole = image_decoding.decode_reduced(image.where, image.encoded, 1)
    except DataError:
        return 0
    return min(whole.height, whole.width)


def _size_factor(sample: Sequence[EncodedImage], options: PackOptions) -> float:
    """Return the size of the sample after packing, as a fraction of its size before. Damaged images are skipped."""
    before = after = 0
    for image in sample:
        try:
            after += len(prepare(image, options).encoded)
        except DataError:
            continue
        before += len(image.encoded)
    return after / before if before else 1.0
