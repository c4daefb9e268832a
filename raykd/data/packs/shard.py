"""Write one shard of a pack: a plain function of a task that can be pickled, for any process of any node.

    <pack>/train-00000.arrow         the shard
    <pack>/train-00000.index         the rows of index.arrow, until the pack is complete
    <pack>/train-00000.json          a WrittenShard, until then; written last, so the shard with it is complete

Files are written under unique names, flushed and renamed. A process that is killed loses the shards in progress, and
the same task writes the same bytes again.
"""

import hashlib
import logging
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from raykd.config.codec import read_record, write_record
from raykd.data.file_hashes import sha256_of
from raykd.data.packs.encoding import PackOptions, PreparedImage, prepare
from raykd.data.packs.errors import SKIP_DAMAGED, Alternative, PackError
from raykd.data.packs.record import INDEX_SCHEMA, ROWS_PER_BATCH, SHARD_SCHEMA, ShardRecord
from raykd.data.sources import EncodedImage, Unit
from raykd.disk.atomic import replacing, write_bytes
from raykd.disk.damage import DamagedFile
from raykd.errors import DataError

_log = logging.getLogger(__name__)
_MAX_BATCH_BYTES = (1 << 31) - 1  # the offsets in a record batch have 31 bits


@dataclass(frozen=True)
class DamagedImage:
    """where: the origin of an image that was left out. reason: the message about it."""

    where: str
    reason: str


@dataclass(frozen=True)
class Sums:
    """Sums over the pixels of square images of one size, by channel: of the values, and of the squared values."""

    num_images: int
    values: tuple[int, ...]
    squared_values: tuple[int, ...]


@dataclass(frozen=True)
class Maximum:
    """The highest value of an image with 16 bits per channel."""

    where: str
    value: int


@dataclass(frozen=True)
class WrittenShard:
    """A shard that is complete.

    key: the key of the task. index_checksum: CRC-32 of the file with the index's rows. sums: by the side of the
    squares, in pixels. file_sha256: SHA-256, in hex, of the file whose first images are in this shard; '' if there is
    none.
    """

    key: str
    shard: ShardRecord
    index_checksum: int
    sums: Mapping[str, Sums]
    damaged: tuple[DamagedImage, ...]
    maxima: tuple[Maximum, ...]
    file_sha256: str


@dataclass(frozen=True)
class ShardTask:
    """The images `unit` of a data set, to be written as the shard `file` in the folder of a pack."""

    folder: Path
    file: str
    unit: Unit
    options: PackOptions

    @property
    def path(self) -> Path:
        return self.folder / self.file

    @property
    def index(self) -> Path:
        """The file with the shard's rows of the index."""
        return self.path.with_suffix(".index")

    @property
    def record(self) -> Path:
        """The file with the shard's WrittenShard."""
        return self.path.with_suffix(".json")

    @property
    def key(self) -> str:
        """A hex digest that differs if the shard would have other bytes, or if its source files have changed."""
        return hashlib.sha256(f"{self.unit.key} {self.options.key}".encode()).hexdigest()


def write_shard(task: ShardTask) -> WrittenShard:
    """Write a shard, unless it is there already, and return what is in it.

    Raises DataError for more damaged images than may be left out, and for files that have changed.
    """
    written = read_written(task)
    if written is not None:
        return written
    rows = _Rows(task)
    with replacing(task.path) as temporary:
        _write(task, temporary, rows)
        num_bytes = temporary.stat().st_size
    index = rows.index()
    write_bytes(task.index, index)
    shard = ShardRecord(task.file, rows.num_images, num_bytes)
    sums = {str(side): sums.frozen() for side, sums in sorted(rows.sums.items())}
    file_sha256 = "" if task.unit.file is None else sha256_of(task.unit.file).hex()
    written = WrittenShard(
        task.key, shard, zlib.crc32(index), sums, tuple(rows.damaged), tuple(rows.maxima), file_sha256
    )
    write_record(task.record, written)
    return written


def read_written(task: ShardTask) -> WrittenShard | None:
    """Return the shard that an earlier process has written for the same images and options, else None."""
    try:
        written = read_record(WrittenShard, task.record)
        if written is None or written.key != task.key or task.path.stat().st_size != written.shard.num_bytes:
            return None
        return written if zlib.crc32(task.index.read_bytes()) == written.index_checksum else None
    except (DamagedFile, OSError) as error:
        _log.warning("%s: packing the shard again (%s)", task.path, error)
        return None


def _write(task: ShardTask, path: Path, rows: "_Rows") -> None:
    """Write the shard's record batches to `path`."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, SHARD_SCHEMA) as writer:
        for image in task.unit.images():
            rows.add(image)
            if rows.is_full:
                writer.write_batch(rows.take_batch(image.where))
        if rows.num_waiting:
            writer.write_batch(rows.take_batch(str(task.path)))


@dataclass
class _MutableSums:
    num_images: int = 0
    values: np.ndarray = field(default_factory=lambda: np.zeros(3, np.int64))
    squared_values: np.ndarray = field(default_factory=lambda: np.zeros(3, np.int64))

    def add(self, square: np.ndarray) -> None:
        pixels = square.reshape(-1, 3).astype(np.int64)
        self.num_images += 1
        self.values += pixels.sum(0)
        self.squared_values += (pixels * pixels).sum(0)

    def frozen(self) -> Sums:
        return Sums(self.num_images, tuple(self.values.tolist()), tuple(self.squared_values.tolist()))


class _Rows:
    """The rows of a shard: those of the next record batch, and the index of all."""

    def __init__(self, task: ShardTask) -> None:
        self._task = task
        self._waiting: list[tuple[bytes, int]] = []  # encoded image and label
        self._index: list[tuple[int, int, int, bytes]] = []  # in the order of INDEX_SCHEMA
        self.sums: dict[int, _MutableSums] = {}
        self.damaged: list[DamagedImage] = []
        self.maxima: list[Maximum] = []

    @property
    def num_images(self) -> int:
        return len(self._index)

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def is_full(self) -> bool:
        return len(self._waiting) == ROWS_PER_BATCH

    def add(self, image: EncodedImage) -> None:
        """Add an image, or its name if it is damaged. Raises DataError for one more than may be left out."""
        try:
            prepared = prepare(image, self._task.options)
        except DataError as error:
            self.damaged.append(DamagedImage(image.where, str(error)))
            if len(self.damaged) > self._task.options.skip_damaged:
                raise too_many_damaged(self.damaged, self._task.options.skip_damaged) from error
            return
        self._add_sums(image.where, prepared)
        self._waiting.append((prepared.encoded, image.label))
        digest = hashlib.sha256(image.encoded).digest()
        self._index.append((image.label, prepared.height, prepared.width, digest))

    def _add_sums(self, where: str, prepared: PreparedImage) -> None:
        self.sums.setdefault(len(prepared.summed), _MutableSums()).add(prepared.summed)
        if prepared.maximum_16_bit is not None:
            self.maxima.append(Maximum(where, prepared.maximum_16_bit))

    def take_batch(self, where: str) -> pa.RecordBatch:
        """Return the next record batch. where: its last image, for messages."""
        images, labels = zip(*self._waiting, strict=True)
        if sum(map(len, images)) > _MAX_BATCH_BYTES:
            problem = f"{where}: {len(images)} consecutive images have more than 2 GiB"
            raise PackError(problem, "", Alternative("reduce the images", "--resize N"))
        self._waiting = []
        columns = (images, labels, map(zlib.crc32, images))
        arrays = [pa.array(column, kind.type) for column, kind in zip(columns, SHARD_SCHEMA, strict=True)]
        return pa.record_batch(arrays, SHARD_SCHEMA)

    def index(self) -> bytes:
        """Return the rows of the index as Arrow IPC."""
        columns = list(zip(*self._index, strict=True)) or [()] * len(INDEX_SCHEMA)
        arrays = [pa.array(column, kind.type) for column, kind in zip(columns, INDEX_SCHEMA, strict=True)]
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, INDEX_SCHEMA) as writer:
            writer.write_batch(pa.record_batch(arrays, INDEX_SCHEMA))
        return sink.getvalue().to_pybytes()


def too_many_damaged(damaged: "list[DamagedImage] | tuple[DamagedImage, ...]", limit: int) -> DataError:
    """Return the error for more than `limit` damaged images. It has the message about the first one too many."""
    first = damaged[limit]
    if not limit:
        return PackError(first.reason, "", SKIP_DAMAGED)
    return DataError(f"{first.reason}; it is damaged image {limit + 1}, and --skip-damaged {limit} leaves out {limit}")
