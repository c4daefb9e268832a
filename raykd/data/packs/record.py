"""The files of a packed data set: encoded images in Arrow IPC files, and pack.json with a PackRecord.

    <folder>/pack.json           the PackRecord, with a checksum; written last, so a folder with it is complete
    <folder>/train-00000.arrow   images, labels and checksums; one file per shard
    <folder>/test-00000.arrow
    <folder>/index.arrow         label, size and SHA-256 of each image of train, then of test

A shard consists of record batches of ROWS_PER_BATCH rows, the last one with the rest.
"""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa

from raykd.config.codec import read_record
from raykd.data.splits import TEST, TRAIN
from raykd.data.types import Channels, Resizing
from raykd.disk.lookup import is_folder
from raykd.errors import COMMAND, DataError, plural, shown

VERSION = 1
ROWS_PER_BATCH = 256
RECORD, INDEX = "pack.json", "index.arrow"
SHARD_SCHEMA = pa.schema([("image", pa.binary()), ("label", pa.int32()), ("checksum", pa.uint32())])
INDEX_SCHEMA = pa.schema(
    [("label", pa.int32()), ("height", pa.int32()), ("width", pa.int32()), ("sha256", pa.binary(32))]
)
SHARD_FILE = re.compile(rf"({TRAIN}|{TEST})-\d{{5,}}\.arrow")


@dataclass(frozen=True)
class ShardRecord:
    """One shard of a split: a file below the pack's folder, its images and its bytes."""

    file: str
    num_images: int
    num_bytes: int


@dataclass(frozen=True)
class PackRecord:
    """pack.json.

    version: version of the format. kind: the kind of the source, such as 'folder', which decides how `content` and the
    images' SHA-256 become the identity of the data set. content: the identity of the source's files, hex; '' if the
    images' SHA-256 suffice.
    index_checksum: CRC-32 of index.arrow. encoding: 'original' bytes, 'jpeg' if they were encoded again, or 'raw',
    which are uint8 [S, S, 3]. shorter_side: pixels, if images were resized. quality: of the JPEG encoder. square_size:
    pixels per side if all images are squares of one size. mean, std: of the training pixels, as fractions of 255.
    num_skipped: damaged images that were left out. source_key: a hash, hex, of the names, sizes and times of change of
    the source's files, and of the options of packing.
    """

    version: int
    kind: str
    content: str
    class_names: tuple[str, ...]
    train: tuple[ShardRecord, ...]
    test: tuple[ShardRecord, ...]
    index_checksum: int
    encoding: Literal["original", "jpeg", "raw"]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    shorter_side: int | None = None
    quality: int | None = None
    square_size: int | None = None
    notes: tuple[str, ...] = ()
    num_skipped: int = 0
    source_key: str = ""

    @property
    def statistics(self) -> tuple[Channels, Channels]:
        """Mean and standard deviation by channel."""
        (red, green, blue), (red_std, green_std, blue_std) = self.mean, self.std
        return (red, green, blue), (red_std, green_std, blue_std)

    @property
    def resizing(self) -> Resizing | None:
        """How the images were reduced; None if they are the original ones."""
        if self.encoding == "original":
            return None
        return Resizing(self.shorter_side, self.quality, self.square_size if self.encoding == "raw" else None)

    @property
    def num_bytes(self) -> int:
        """Bytes of all shards."""
        return sum(shard.num_bytes for shard in (*self.train, *self.test))

    def problem(self) -> str:
        if self.version != VERSION:
            return f"version is {self.version}, and this raykd reads version {VERSION}"
        if len(self.mean) != 3 or len(self.std) != 3:
            return "mean and std must have three numbers each"
        if wrong := [shard.file for shard in (*self.train, *self.test) if not SHARD_FILE.fullmatch(shard.file)]:
            return f"{shown(wrong[0])} is not the name of a shard"
        if len(self.class_names) < 2:
            return f"it names {plural(len(self.class_names), 'class', 'classes')}, and at least two are required"
        ((name, count),) = Counter(self.class_names).most_common(1)
        return f"{count} of its classes are called '{name}'" if count > 1 else ""


def read_pack_record(folder: Path) -> PackRecord:
    """Return the record of the pack in `folder`. Raises DataError if there is no complete pack, or it is damaged."""
    if not is_folder(folder):
        raise DataError(f"{folder}: no such folder; pack a data set with: {COMMAND} pack NAME")
    record = read_record(PackRecord, folder / RECORD)
    if record is None:
        raise DataError(
            f"{folder}: has no {RECORD}; it is no packed data set, or packing it was interrupted: rerun the command "
            "that packs it"
        )
    return record


def repack_remedy(folder: Path) -> str:
    """Return the remedy for a damaged pack, which an experiment or the `pack` command has written."""
    return f"remove the folder '{folder}' and pack the data set again: rerun the command that packed it"
