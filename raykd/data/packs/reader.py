"""Read a packed data set: encoded images in memory-mapped Arrow IPC files, by row and without copying.

All processes of a node share the pages of a file. A row has a CRC-32, which is compared whenever the row is read, so
that no run trains on a damaged image, and nothing has to be hashed when a pack is opened.

Shapes: N images of a split.
"""

import zlib
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from threading import Lock

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from raykd.data.packs.record import INDEX, RECORD, ROWS_PER_BATCH, ShardRecord, read_pack_record, repack_remedy
from raykd.errors import DataError

_DIGEST_BYTES = 32


class Pack:
    """An open pack.

    train_digests, test_digests: uint8 [N, 32], the SHA-256 of each original image.
    """

    def __init__(self, folder: Path) -> None:
        """Open the pack in `folder`: read its record and its index, and compare the sizes of its shards.

        Raises DataError, with the remedy, if files are missing, truncated or damaged.
        """
        record = read_pack_record(folder)
        self.folder, self.record = folder, record
        for shard in (*record.train, *record.test):
            self._require_size(folder / shard.file, shard.num_bytes)
        num_train = sum(shard.num_images for shard in record.train)
        labels, sizes, digests = self._read_index(num_train + sum(shard.num_images for shard in record.test))
        self.train = PackedSplit(folder, record.train, labels[:num_train], sizes[:num_train])
        self.test = PackedSplit(folder, record.test, labels[num_train:], sizes[num_train:])
        self._require_labels(labels)
        self.train_digests, self.test_digests = digests[:num_train], digests[num_train:]

    def _require_labels(self, labels: Tensor) -> None:
        """Raise DataError for a label, of int64 [n], without a class name."""
        num_classes = len(self.record.class_names)
        if wrong := labels[(labels < 0) | (labels >= num_classes)].tolist():
            raise DataError(
                f"{self.folder / INDEX}: has label {wrong[0]}, and {RECORD} names {num_classes} classes, from label 0; "
                f"{repack_remedy(self.folder)}"
            )

    def _require_size(self, path: Path, num_bytes: int) -> None:
        try:
            size = path.stat().st_size
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror}); {repack_remedy(self.folder)}") from error
        if size != num_bytes:
            raise DataError(f"{path}: has {size:,} bytes instead of {num_bytes:,}; {repack_remedy(self.folder)}")

    def _read_index(self, num_images: int) -> tuple[Tensor, Tensor, np.ndarray]:
        """Return labels int64 [n], heights and widths int64 [n, 2], and digests uint8 [n, 32], of both splits."""
        path = self.folder / INDEX
        try:
            with pa.memory_map(str(path)) as source:
                content = source.read_buffer()
                if zlib.crc32(content) != self.record.index_checksum:
                    raise ValueError("it does not match its checksum")
                table = pa.ipc.open_file(content).read_all()
            labels, *sides = (
                torch.from_numpy(table[name].to_numpy().astype(np.int64)) for name in ("label", "height", "width")
            )
            digests = np.frombuffer(b"".join(table["sha256"].to_pylist()), np.uint8).reshape(-1, _DIGEST_BYTES)
        except (OSError, pa.ArrowException, KeyError, ValueError) as error:
            raise DataError(f"{path}: is damaged ({error}); {repack_remedy(self.folder)}") from error
        if len(labels) != num_images:
            raise DataError(f"{path}: has {len(labels):,} rows instead of {num_images:,}; {repack_remedy(self.folder)}")
        return labels, torch.stack(sides, dim=1), digests


class PackedSplit:
    """The encoded images of one split, by row. Several threads may read concurrently.

    labels: int64 [N]. sizes: int64 [N, 2], height and width of each image after the rotation that its EXIF requires.
    """

    def __init__(self, folder: Path, shards: Sequence[ShardRecord], labels: Tensor, sizes: Tensor) -> None:
        self._folder, self._shards, self.labels, self.sizes = folder, shards, labels, sizes
        self._paths = [str(folder / shard.file) for shard in shards]
        self._ends = [*accumulate(shard.num_images for shard in shards)]
        self._lock = Lock()
        self._readers: dict[int, pa.ipc.RecordBatchFileReader] = {}
        self._batches: dict[tuple[int, int], _Rows] = {}

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> tuple[str, memoryview]:
        """Return the source of image `index`, for messages, and its bytes, which are mapped from the file.

        Raises DataError if the row does not match its checksum.
        """
        shard = bisect_right(self._ends, index)
        row = index - self._ends[shard] + self._shards[shard].num_images
        batch, row_of_batch = divmod(row, ROWS_PER_BATCH)
        rows = self._batches.get((shard, batch)) or self._map(shard, batch)
        where = f"{self._paths[shard]}: row {row}"
        encoded = rows.read(row_of_batch)
        if encoded is None:
            raise DataError(f"{where} does not match its checksum; {repack_remedy(self._folder)}")
        return where, encoded

    def _map(self, shard: int, batch: int) -> "_Rows":
        path = self._paths[shard]
        with self._lock:
            try:
                if shard not in self._readers:
                    self._readers[shard] = pa.ipc.open_file(pa.memory_map(path))
                rows = _Rows(self._readers[shard].get_batch(batch))
            except (OSError, pa.ArrowException) as error:
                raise DataError(f"{path}: is damaged ({error}); {repack_remedy(self._folder)}") from error
            return self._batches.setdefault((shard, batch), rows)


class _Rows:
    """The mapped rows of one record batch."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        _, offsets, data = batch.column(0).buffers()
        self._offsets = np.frombuffer(offsets, np.int32)
        self._data = memoryview(data)
        self._checksums = batch.column(2).to_numpy()

    def read(self, row: int) -> memoryview | None:
        """Return the bytes of a row, or None if they do not match its checksum."""
        if row >= len(self._checksums):
            return None
        encoded = self._data[self._offsets[row] : self._offsets[row + 1]]
        return encoded if zlib.crc32(encoded) == self._checksums[row] else None
