"""The teacher's logits for each view of each image, kept once on disk and mapped into memory.

    logits[index, view]   float16 [N, V, C], raw, a hole where nothing is filled
    filled[index, view]   one bit each, and a checksum of each image: [N, ceil(V / 8) + 4] bytes

For methods that ask for it, a row holds the pooled embedding behind the logits: outputs [N, V, C + D]. That is another
logit cache, in a folder of its own.

An image has a finite set of V views (data/views.py), so V passes of the teacher, or as many as planned runs will
visit, serve every epoch, seed, temperature and alpha from memory: 50,000 images, 162 views and 10 classes are 162 MB.

    <logit_caches>/<16 digits of the key>/   cache.json  logits.f16 (or outputs.f16)  filled.bits  .lock

Several processes may write at once, on several nodes: each its own images, the rows first and flushed, then their
bits. So a bit never speaks of a row that is not there, and a kill loses no more than what was in hand.

The checksum is a CRC-32 of the cache's key, the image's index, its bits and the rows that they name, and lies beside
the bits, so that one write changes both. An image that does not match it counts as not filled, and is filled again.
"""

import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import Timeout
from torch import Tensor

from raykd.atomic import make_folder, naming
from raykd.config import fingerprint
from raykd.data.views import Views
from raykd.errors import ConfigError, RunFailed
from raykd.store.codec import Fields, write_record
from raykd.store.run_folder import lock_at

ITEM_BYTES = 2
CHECKSUM_BYTES = 4
CHECK_BYTES = 8 << 20  # of rows that are compared with their checksums at a time
LOCK_WAIT_S = 60.0  # held for one write of some MB


@dataclass(frozen=True)
class CacheKey:
    """Everything that determines the content of a logit cache; a cache with any other key is refused.

    precision: as in the recipe of the runs. cache.json also records what 'auto' resolved to when the cache was created.
    embedding_width: channels of the embedding in each row; 0 for logits alone.
    """

    teacher_sha256: str
    data_identity: str
    crop_padding: int
    flip: bool
    precision: str
    num_images: int
    num_classes: int
    embedding_width: int = 0

    @property
    def fields(self) -> dict[str, Any]:
        """Return the key, JSON-ready."""
        return asdict(self)

    @property
    def name(self) -> str:
        """Of the logit cache's folder."""
        return fingerprint(self.fields)[:16]

    @property
    def row_width(self) -> int:
        """Numbers for one view of one image."""
        return self.num_classes + self.embedding_width

    @property
    def num_views(self) -> int:
        return Views(self.crop_padding, self.flip).count

    @property
    def size_bytes(self) -> int:
        return self.num_images * self.num_views * self.row_width * ITEM_BYTES


class LogitCache:
    """One logit cache's files. Rows are [N * V, C + D]: image `index` as `view` is row index * V + view."""

    def __init__(self, caches: Path, key: CacheKey, precision: str = "") -> None:
        """The logit cache of `key` below `caches`, empty where there is none yet.

        precision: in which whoever makes it computes; all who fill it then do so in `self.precision`.

        Raises ConfigError where what lies there is of another key, or was cut short.
        """
        self.key = key
        self.folder = caches / key.name
        self._bits_in_row = -(-key.num_views // 8)
        self._rows = self.folder / ("outputs.f16" if key.embedding_width else "logits.f16")
        self._filled = self.folder / "filled.bits"
        self._record_bytes = self._bits_in_row + CHECKSUM_BYTES
        self._image_bytes = key.num_views * key.row_width * ITEM_BYTES
        self._sizes = {self._rows: key.size_bytes, self._filled: key.num_images * self._record_bytes}
        if not self.exists(caches, key):
            self._make(precision or key.precision)
        self._check()

    @staticmethod
    def exists(caches: Path, key: CacheKey) -> bool:
        """Whether somebody has begun to fill it."""
        return (caches / key.name / "cache.json").exists()

    def filled(self, first: int = 0, end: int | None = None) -> Tensor:
        """Return bool [N, V], or of images first .. end - 1 alone: which rows are there and intact."""
        return self.check(first, end)[0]

    def check(self, first: int = 0, end: int | None = None) -> tuple[Tensor, Tensor]:
        """Compare images first .. end - 1 with their checksums, 0.3 s for the 162 MB of CIFAR-10.

        Returns which rows are there, bool [n, V], without those of damaged images; and which images are damaged, [n].
        """
        end, step = self.key.num_images if end is None else end, max(1, CHECK_BYTES // self._image_bytes)
        filled = np.zeros((end - first, self.key.num_views), dtype=bool)
        damaged = np.zeros(end - first, dtype=bool)
        for start in range(first, end, step):
            part = slice(start - first, min(start + step, end) - first)
            _, filled[part], damaged[part] = self._read(start, part.stop - part.start)
            if damaged[part].any():  # or in the middle of another's write
                with self._locked():
                    _, filled[part], damaged[part] = self._read(start, part.stop - part.start)
        return torch.from_numpy(filled), torch.from_numpy(damaged)

    def rows(self) -> Tensor:
        """float16 [N * V, C + D], mapped from the file: processes of one node share its pages."""
        size = self.key.size_bytes // ITEM_BYTES
        mapped = torch.from_file(str(self._rows), shared=False, size=size, dtype=torch.float16)
        return mapped.view(-1, self.key.row_width)

    def logits(self) -> Tensor:
        """float16 [N * V, C], of `rows`."""
        return self.rows()[:, : self.key.num_classes]

    def write(self, first: int, rows: Tensor, filled: Tensor) -> None:
        """Add rows [n, V, C + D] of images first .. first + n - 1 where filled [n, V].

        What is there already stays, but for damaged images. Raises RunFailed for rows that are NaN or infinite.
        """
        if not rows[filled].isfinite().all():
            raise RunFailed(
                "the teacher's outputs are NaN, or beyond float16's 65,504: a logit cache cannot hold them; "
                "check the teacher's weights, or teach live with --set teacher_source=live"
            )
        with self._locked():
            kept, there, _ = self._read(first, len(rows))
            added = filled.numpy() & ~there
            merged = np.where(added[..., None], rows.numpy(), kept)
            _write_at(self._rows, first * self._image_bytes, merged.tobytes())
            _write_at(self._filled, first * self._record_bytes, self._records(first, merged, there | added).tobytes())

    def _read(self, first: int, num_images: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return rows float16 [n, V, C + D], which are there and intact [n, V], which images are damaged [n]."""
        raw = _read_at(self._filled, first * self._record_bytes, num_images * self._record_bytes)
        records = np.frombuffer(raw, np.uint8).reshape(num_images, self._record_bytes)
        bits = np.unpackbits(records[:, : self._bits_in_row], axis=1, count=self.key.num_views).astype(bool)
        shape = (num_images, self.key.num_views, self.key.row_width)
        if not bits.any():
            return np.zeros(shape, np.float16), bits, np.zeros(num_images, dtype=bool)
        raw = _read_at(self._rows, first * self._image_bytes, num_images * self._image_bytes)
        rows = np.frombuffer(raw, np.float16).reshape(shape)
        expected = self._records(first, rows, bits)[:, self._bits_in_row :]
        damaged = bits.any(axis=1) & (records[:, self._bits_in_row :] != expected).any(axis=1)
        return rows, bits & ~damaged[:, None], damaged

    def _records(self, first: int, rows: np.ndarray, filled: np.ndarray) -> np.ndarray:
        """Return what filled.bits holds of images whose `rows` are `filled`: bits and checksum, uint8 [n, bytes]."""
        named = rows if filled.all() else np.where(filled[..., None], rows, np.float16(0))
        data, packed = np.ascontiguousarray(named).data.cast("B"), np.packbits(filled, axis=1)
        key, size = zlib.crc32(self.key.name.encode()), self._image_bytes
        checksums = np.zeros(len(rows), dtype="<u4")
        for number in np.flatnonzero(filled.any(axis=1)).tolist():
            start = zlib.crc32(packed[number].tobytes(), zlib.crc32((first + number).to_bytes(8, "little"), key))
            checksums[number] = zlib.crc32(data[number * size : (number + 1) * size], start)
        return np.concatenate([packed, checksums.view(np.uint8).reshape(-1, CHECKSUM_BYTES)], axis=1)

    def _make(self, precision: str) -> None:
        """cache.json comes last: who finds it finds the others."""
        make_folder(self.folder)
        with self._locked():
            if (self.folder / "cache.json").is_file():  # another was quicker
                return
            for path, size in self._sizes.items():
                with path.open("ab") as file:
                    file.truncate(size)
            write_record(self.folder / "cache.json", self.key.fields | {"computed_in": precision})

    @contextmanager
    def _locked(self) -> Iterator[None]:
        path = self.folder / ".lock"
        try:
            with lock_at(path).acquire(timeout=LOCK_WAIT_S):
                yield
        except Timeout:
            raise RunFailed(f"'{path}' was held by another for {LOCK_WAIT_S:g} s; look for who writes there") from None

    def _check(self) -> None:
        fields = Fields.read(self.folder / "cache.json")
        found = fields.values
        self.precision: str = fields.optional_text("computed_in") or self.key.precision
        for name, wanted in self.key.fields.items():
            if found.get(name) != wanted:
                raise ConfigError(
                    f"logit cache '{self.folder}' was made with {name} {found.get(name)}, this run has {wanted}; "
                    "remove the folder to fill it again"
                )
        for path, size in self._sizes.items():
            if not path.is_file() or path.stat().st_size != size:
                raise ConfigError(f"teacher's logit cache '{path}' is not {size} bytes long; remove '{self.folder}'")


def visited(views: Views, rows: Tensor, num_images: int, epochs: Mapping[int, int]) -> Tensor:
    """bool [num_images, V]: which views runs show of the images `rows` in epochs {seed: how many of them}."""
    found = torch.zeros(num_images * views.count, dtype=torch.bool)
    for seed, count in epochs.items():
        for epoch in range(count):
            found[rows * views.count + views.draw(seed, epoch, rows)] = True
    return found.view(num_images, views.count)


def _read_at(path: Path, offset: int, size: int) -> bytes:
    """Return `size` bytes of the file. Raises ConfigError where it ends before."""
    with naming(path), path.open("rb") as file:
        file.seek(offset)
        content = file.read(size)
    if len(content) < size:
        raise ConfigError(f"logit cache '{path}' was cut short; remove '{path.parent}', and it is filled again")
    return content


def _write_at(path: Path, offset: int, content: bytes) -> None:
    """All of it on disk, or OSError."""
    with naming(path), path.open("r+b", buffering=0) as file:
        file.seek(offset)
        rest = memoryview(content)
        while rest:
            rest = rest[file.write(rest) :]
        os.fsync(file.fileno())
