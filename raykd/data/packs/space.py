"""Compare the disk space that a pack requires with the free space, before anything is written."""

import os
import shutil
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from raykd.data.packs.encoding import PackOptions, prepare
from raykd.data.packs.errors import TO_ANOTHER_FOLDER, Alternative, PackError
from raykd.data.packs.shard import ShardTask
from raykd.disk.lookup import is_folder
from raykd.errors import DataError
from raykd.units import capacity

_BYTES_PER_ROW = 100  # label, checksum, offset and the index's row, before and after the pack is complete
_SAMPLED_UNITS, _SAMPLED_IMAGES = 16, 4  # the size of a sample: units, and images of each unit


def require_space(folder: Path, tasks: Sequence[ShardTask], options: PackOptions) -> None:
    """Raise DataError if the shards of `tasks` do not fit on the disk of `folder`, or if it cannot be written."""
    existing = next(path for path in (folder, *folder.absolute().parents) if is_folder(path))
    if not os.access(existing, os.W_OK | os.X_OK):
        raise PackError(f"{folder}: cannot be written, for lack of permission in {existing}", "", TO_ANOTHER_FOLDER)
    disk, required = shutil.disk_usage(existing), required_bytes(tasks, options)
    if required > disk.free and disk.total:  # some filesystems do not report their size
        raise PackError(
            f"{folder}: packing requires {capacity(required)}, and {capacity(disk.free)} are free on its disk",
            "free some",
            Alternative("pack onto another disk", "--to FOLDER"),
            Alternative("store smaller images", "--resize N" if options.square_size is None else "--raw N"),
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
    factor = 1.0 if options.shorter_side is None else _size_factor(tasks, options)
    return int(num_bytes * factor) + num_images * _BYTES_PER_ROW


def _size_factor(tasks: Sequence[ShardTask], options: PackOptions) -> float:
    """Return the size of a sample after packing, as a fraction of its size before. Damaged images are skipped."""
    before = after = 0
    for task in tasks[:: max(1, len(tasks) // _SAMPLED_UNITS)]:
        for image in islice(task.unit.images(), _SAMPLED_IMAGES):
            try:
                after += len(prepare(image, options).encoded)
            except DataError:
                continue
            before += len(image.encoded)
    return after / before if before else 1.0
