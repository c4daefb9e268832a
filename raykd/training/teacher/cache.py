"""The logit cache: a teacher's logits for each view of each image, in files that processes map into memory.

    logits[index, view]   float16 [N, V, C], a hole in the file where nothing is filled
    filled[index, view]   one bit each, and a checksum of each image's rows: [N, ceil(V / 8) + 4] bytes

For methods that need the embedding, another cache holds rows of logits and pooled embedding: outputs [N, V, C + D].
For many classes, rows hold the top k of them, see sparse_rows.py: top_logits [N, V, 2k + 1], or with an embedding
top_outputs [N, V, 2k + 1 + D].

An image has a finite set of V views (data/views.py, data/crop_views.py). So at most V teacher passes per image serve
every epoch, seed, temperature and alpha. 50,000 images, 162 views and 10 classes are 162 MB; ImageNet's 1.28 million
images, 30 crops and the top 16 of 1,000 classes are 2.5 GB.

    <logit_caches>/<16 digits of the key>/   cache.json  logits.f16 (or one of the others)  filled.bits  .lock
                                             sampled.json, for rows of the top classes; .fill.lock, see `claimed`

Several processes on several nodes may write concurrently, each to different images. Rows are written and flushed before
their bits, so a set bit always means a complete row, and an interruption loses only the rows in progress.

The checksum is a CRC-32 of the cache's key, the image's index, its bits and its filled rows. It lies beside the bits,
so that one write changes both. An image with a wrong checksum counts as not filled, and is filled again.
"""

import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from math import log
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from raykd.config import fingerprint
from raykd.config.codec import read_record, require_record, write_record
from raykd.data.crop_views import CropViews
from raykd.data.sampling import Balanced, Draw
from raykd.data.views import Views
from raykd.disk.atomic import make_folder, naming
from raykd.disk.file_lock import holding, lock_at, try_lock_range
from raykd.disk.lookup import is_file, is_there
from raykd.errors import ConfigError, RunFailed
from raykd.store.records import CACHE_CHECKSUM_BYTES, CacheRecord, RestoredSample, TopClasses
from raykd.training.teacher.sparse_rows import RowLayout

ITEM_BYTES = 2
CHUNK_BYTES = 8 << 20  # bytes of rows that are read and checked at a time
LOCK_WAIT_S = 60.0  # the lock is held for one write of some MB


@dataclass(frozen=True)
class CacheKey:
    """Everything that determines the content of a logit cache; a cache with any other key is refused.

    precision: as in the recipe of the runs. cache.json also records what 'auto' resolved to when the cache was created.
    embedding_width: channels of the embedding in each row; 0 for logits alone. min_crop_area, views_per_image: of crop
    views; None for views of padded images. cached_classes: the classes whose logits a row keeps; None for all.
    """

    teacher_sha256: str
    data_identity: str
    crop_padding: int
    flip: bool
    precision: str
    num_images: int
    num_classes: int
    embedding_width: int = 0
    min_crop_area: float | None = None
    views_per_image: int | None = None
    cached_classes: int | None = None

    @property
    def name(self) -> str:
        """Name of the cache's folder."""
        values = asdict(self)
        return fingerprint({name: values[name] for name in values if values[name] is not None})[:16]

    @property
    def layout(self) -> RowLayout:
        """The layout of a row, one view of an image."""
        return RowLayout(self.num_classes, self.embedding_width, self.cached_classes)

    @property
    def row_width(self) -> int:
        """16-bit words per view of an image."""
        return self.layout.width

    @property
    def num_views(self) -> int:
        """The number of views of each image."""
        return self.views_per_image or Views(self.crop_padding, self.flip).count

    @property
    def size_bytes(self) -> int:
        """The size of the file of rows, including holes."""
        return self.num_images * self.num_views * self.row_width * ITEM_BYTES


class LogitCache:
    """The files of one logit cache. `view` of image `index` is row index * V + view, of W words (`CacheKey.layout`)."""

    def __init__(self, caches: Path, key: CacheKey, precision: str = "") -> None:
        """Open the cache of `key` below the folder `caches`, or create it empty.

        precision: recorded when the cache is created, as in Compute. Every later filler computes in
        `self.precision`, so that all rows are rounded alike.

        Raises ConfigError if the files belong to another key or are truncated.
        """
        self.key = key
        self.folder = caches / key.name
        self._bitmap_bytes = -(-key.num_views // 8)
        content = "outputs" if key.embedding_width else "logits"
        self._rows_path = self.folder / (f"{content}.f16" if key.cached_classes is None else f"top_{content}.u16")
        self._word = np.dtype(np.float16 if key.cached_classes is None else np.int16)
        self._bitmap_path, self._sampled_path = self.folder / "filled.bits", self.folder / "sampled.json"
        self._entry_bytes = self._bitmap_bytes + CACHE_CHECKSUM_BYTES
        self._image_bytes = key.num_views * key.row_width * ITEM_BYTES
        self._sizes = {self._rows_path: key.size_bytes, self._bitmap_path: key.num_images * self._entry_bytes}
        if not self.exists(caches, key):
            self._create(precision or key.precision)
        self.precision = self._read_record()

    @staticmethod
    def exists(caches: Path, key: CacheKey) -> bool:
        """Return whether the cache has been created; it may still be empty."""
        return is_there(caches / key.name / "cache.json")

    def filled(self, first: int = 0, end: int | None = None) -> Tensor:
        """Return which rows of images first .. end - 1 are filled and intact, bool [end - first, V]."""
        return self.check(first, end)[0]

    def check(self, first: int = 0, end: int | None = None) -> tuple[Tensor, Tensor]:
        """Compare the rows of images first .. end - 1 with their checksums; 0.3 s for CIFAR-10's 162 MB of logits.

        Returns the filled rows, bool [n, V], False for damaged images; and the damaged images, bool [n].
        """
        end, step = self.key.num_images if end is None else end, max(1, CHUNK_BYTES // self._image_bytes)
        filled = np.zeros((end - first, self.key.num_views), dtype=bool)
        damaged = np.zeros(end - first, dtype=bool)
        for start in range(first, end, step):
            part = slice(start - first, min(start + step, end) - first)
            _, filled[part], damaged[part] = self._read(start, part.stop - part.start)
            if damaged[part].any():  # they may also be in the middle of a write: read them again under the lock
                with self._locked():
                    _, filled[part], damaged[part] = self._read(start, part.stop - part.start)
        return torch.from_numpy(filled), torch.from_numpy(damaged)

    def rows(self) -> Tensor:
        """Return all rows [N * V, W], mapped from the file: processes on one node share its pages."""
        size, dtype = self.key.size_bytes // ITEM_BYTES, self.key.layout.dtype
        mapped = torch.from_file(str(self._rows_path), shared=False, size=size, dtype=dtype)
        return mapped.view(-1, self.key.row_width)

    def logits(self) -> Tensor:
        """Return the logits of `rows`, float16 [N * V, C], of a cache of all classes."""
        assert self.key.cached_classes is None
        return self.rows()[:, : self.key.num_classes]

    def write(self, first: int, rows: Tensor, filled: Tensor) -> None:
        """Add rows [n, V, W] of images first .. first + n - 1 where `filled`, bool [n, V], is set.

        Intact rows stay as they are. Raises RunFailed for numbers that are NaN or infinite.
        """
        if not self.key.layout.values(rows[filled]).isfinite().all():
            raise RunFailed(
                "the teacher's outputs are NaN, or beyond float16's 65,504: a logit cache cannot hold them; "
                "check the teacher's weights, or use --set teacher_source=live"
            )
        with self._locked():
            present_rows, present, _ = self._read(first, len(rows))
            added = filled.numpy() & ~present
            merged = np.where(added[..., None], rows.numpy(), present_rows)
            _write_at(self._rows_path, first * self._image_bytes, merged.tobytes())
            entries = self._entries(first, merged, present | added)
            _write_at(self._bitmap_path, first * self._entry_bytes, entries.tobytes())

    @contextmanager
    def claimed(self, first: int, end: int) -> Iterator[bool]:
        """Claim images first .. end - 1, so that no other process computes them, and yield True.

        Yields False if another process has claimed one of them. The kernel releases the claim when the block or the
        process ends. A process has one claim at a time.
        """
        with (self.folder / ".fill.lock").open("ab") as file:
            yield try_lock_range(file, first, end)

    def add_sample(self, sample: RestoredSample) -> None:
        """Add the sums of more rows to those in `sampled`."""
        with self._locked():
            write_record(self._sampled_path, sample if (before := self.sampled()) is None else before + sample)

    def describe_error(self) -> str:
        """Return the error of the restored rows, in words; '' if it was not measured."""
        if (error := self.sampled()) is None:
            return ""
        kl = ", ".join(f"{error.kl[name].mean:.2g} at temperature {name}" for name in sorted(error.kl, key=float))
        return (
            f"the kept classes have {min(1.0, error.probability.mean):.2%} of the teacher's probability, and "
            f"KL(teacher || restored) is {kl} (nats per view)"
        )

    def top_classes(self, temperature: float) -> TopClasses | None:
        """Return what the rows keep and the error at the nearest measured temperature; None for rows of all classes."""
        kept, error = self.key.cached_classes, self.sampled()
        if kept is None:
            return None
        if error is None:
            return TopClasses(kept, self.key.num_classes)
        name = min(error.kl, key=lambda name: abs(log(float(name) / temperature)))
        probability = min(1.0, error.probability.mean)
        return TopClasses(kept, self.key.num_classes, probability, error.kl[name].mean, float(name))

    def sampled(self) -> RestoredSample | None:
        """Return the sums over the sampled rows of the top classes; None without any. Raises DamagedFile."""
        return read_record(RestoredSample, self._sampled_path)

    def _read(self, first: int, num_images: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return rows [n, V, W], and masks of intact rows, bool [n, V], and damaged images, bool [n]."""
        raw = _read_at(self._bitmap_path, first * self._entry_bytes, num_images * self._entry_bytes)
        entries = np.frombuffer(raw, np.uint8).reshape(num_images, self._entry_bytes)
        bits = np.unpackbits(entries[:, : self._bitmap_bytes], axis=1, count=self.key.num_views).astype(bool)
        shape = (num_images, self.key.num_views, self.key.row_width)
        if not bits.any():
            return np.zeros(shape, self._word), bits, np.zeros(num_images, dtype=bool)
        raw = _read_at(self._rows_path, first * self._image_bytes, num_images * self._image_bytes)
        rows = np.frombuffer(raw, self._word).reshape(shape)
        expected = self._entries(first, rows, bits)[:, self._bitmap_bytes :]
        damaged = bits.any(axis=1) & (entries[:, self._bitmap_bytes :] != expected).any(axis=1)
        return rows, bits & ~damaged[:, None], damaged

    def _entries(self, first: int, rows: np.ndarray, filled: np.ndarray) -> np.ndarray:
        """Return the entries of filled.bits for images from `first` on: bits and checksum, uint8 [n, bytes]."""
        covered = rows if filled.all() else np.where(filled[..., None], rows, self._word.type(0))
        data, packed = np.ascontiguousarray(covered).data.cast("B"), np.packbits(filled, axis=1)
        key, size = zlib.crc32(self.key.name.encode()), self._image_bytes
        checksums = np.zeros(len(rows), dtype="<u4")
        for number in np.flatnonzero(filled.any(axis=1)).tolist():
            start = zlib.crc32(packed[number].tobytes(), zlib.crc32((first + number).to_bytes(8, "little"), key))
            checksums[number] = zlib.crc32(data[number * size : (number + 1) * size], start)
        return np.concatenate([packed, checksums.view(np.uint8).reshape(-1, CACHE_CHECKSUM_BYTES)], axis=1)

    def _create(self, precision: str) -> None:
        """Create the files, cache.json last: where it exists, all others do."""
        make_folder(self.folder)
        with self._locked():
            if is_file(self.folder / "cache.json"):  # another process created it first
                return
            for path, size in self._sizes.items():
                with path.open("ab") as file:
                    file.truncate(size)
            write_record(self.folder / "cache.json", CacheRecord(**asdict(self.key), computed_in=precision))

    def _locked(self) -> AbstractContextManager[None]:
        return holding(lock_at(self.folder / ".lock"), LOCK_WAIT_S)

    def _read_record(self) -> str:
        """Compare cache.json and the files' sizes with the key, and return the precision that fillers compute in."""
        record = require_record(CacheRecord, self.folder / "cache.json")
        for name, expected in asdict(self.key).items():
            if (recorded := getattr(record, name)) != expected:
                raise ConfigError(
                    f"logit cache '{self.folder}' has {name} = {recorded}, but this run requires {name} = {expected}; "
                    "remove the folder to fill it again"
                )
        for path, size in self._sizes.items():
            if not is_file(path) or path.stat().st_size != size:
                raise ConfigError(
                    f"logit cache '{path}' is not {size} bytes long; remove '{self.folder}' to fill it again"
                )
        return record.computed_in


def visited_views(
    views: Views | CropViews,
    indices: Tensor,
    num_images: int,
    epochs: Mapping[int, int],
    sampler: Balanced | None = None,
) -> Tensor:
    """Return which views of the images `indices` are shown in {seed: number of epochs}, bool [num_images, V].

    sampler: draws the images of each epoch; None if each epoch shows all of `indices` once.
    """
    num_views = views.count
    assert num_views is not None, "no cache is planned for an infinite number of views"
    is_visited = torch.zeros(num_images * num_views, dtype=torch.bool)
    for seed, count in epochs.items():
        for epoch in range(count):
            drawn = Draw(indices) if sampler is None else sampler.draw(seed, epoch)
            is_visited[drawn.index * num_views + views.draw(seed, epoch, drawn.index, drawn.number)] = True
    return is_visited.view(num_images, num_views)


def _read_at(path: Path, offset: int, size: int) -> bytes:
    """Return `size` bytes of the file from `offset` on. Raises ConfigError if the file is shorter."""
    with naming(path), path.open("rb") as file:
        file.seek(offset)
        content = file.read(size)
    if len(content) < size:
        raise ConfigError(f"logit cache '{path}' is truncated; remove '{path.parent}' to fill it again")
    return content


def _write_at(path: Path, offset: int, content: bytes) -> None:
    """Write and flush all of `content`. Raises OSError."""
    with naming(path), path.open("r+b", buffering=0) as file:
        file.seek(offset)
        rest = memoryview(content)
        while rest:
            rest = rest[file.write(rest) :]
        os.fsync(file.fileno())
