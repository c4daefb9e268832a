"""The teacher's logits for each view of each image, kept once on disk and mapped into memory.

    logits[index, view]   float16 [N, V, C], raw, a hole where nothing is filled
    filled[index, view]   one bit each, [N, ceil(V / 8)] bytes

For methods that ask for it, a row holds the pooled embedding behind the logits: outputs [N, V, C + D]. That is another
table, in a folder of its own.

An image has a finite set of V views (data/views.py), so V passes of the teacher, or as many as planned runs will
visit, serve every epoch, seed, temperature and alpha from memory: 50,000 images, 162 views and 10 classes are 162 MB.

    <tables>/<16 digits of the key>/   table.json  logits.f16 (or outputs.f16)  filled.bits  .lock

Several processes may write at once, on several nodes: each its own images, the rows first and flushed, then their
bits. So a bit never speaks of a row that is not there, and a kill loses no more than what was in hand.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import Timeout
from torch import Tensor

from raykd.atomic import write_json
from raykd.config import fingerprint
from raykd.data.views import Views
from raykd.errors import ConfigError, RunFailed
from raykd.run_folder import lock_at, read_json

ITEM_BYTES = 2
LOCK_WAIT_S = 60.0  # held for one write of some MB


@dataclass(frozen=True)
class TableKey:
    """All that decides what stands in a table; a table of any other key is refused.

    precision: as the runs' recipe has it; what 'auto' came to when the table was made is in table.json beside the key.
    embedding_width: channels of the embedding in each row; 0 for a table of logits alone.
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
        """JSON-ready, and as before there were embeddings where there are none: such tables keep their names."""
        return {name: value for name, value in asdict(self).items() if value or name != "embedding_width"}

    @property
    def name(self) -> str:
        """Of the table's folder."""
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


class TeacherTable:
    """One table's files. Rows are [N * V, C + D]: image `index` as `view` is row index * V + view."""

    def __init__(self, tables: Path, key: TableKey, precision: str = "") -> None:
        """The table of `key` below `tables`, empty where there is none yet.

        precision: in which whoever makes it computes; all who fill it then do so in `self.precision`.

        Raises ConfigError where what lies there is of another key, or was cut short.
        """
        self.key = key
        self.folder = tables / key.name
        self._bits_in_row = -(-key.num_views // 8)
        self._rows = self.folder / ("outputs.f16" if key.embedding_width else "logits.f16")
        self._filled = self.folder / "filled.bits"
        self._sizes = {self._rows: key.size_bytes, self._filled: key.num_images * self._bits_in_row}
        if not (self.folder / "table.json").is_file():
            self._make(precision or key.precision)
        self._check()

    @staticmethod
    def exists(tables: Path, key: TableKey) -> bool:
        """Whether somebody has begun to fill it."""
        return (tables / key.name / "table.json").is_file()

    def filled(self, first: int = 0, end: int | None = None) -> Tensor:
        """bool [N, V], or of images first .. end - 1 alone: which rows are there."""
        return self._bits(first, (self.key.num_images if end is None else end) - first)

    def rows(self) -> Tensor:
        """float16 [N * V, C + D], mapped from the file: processes of one node share its pages."""
        size = self.key.size_bytes // ITEM_BYTES
        mapped = torch.from_file(str(self._rows), shared=False, size=size, dtype=torch.float16)
        return mapped.view(-1, self.key.row_width)

    def logits(self) -> Tensor:
        """float16 [N * V, C], of `rows`."""
        return self.rows()[:, : self.key.num_classes]

    def write(self, first: int, rows: Tensor, filled: Tensor) -> None:
        """Add rows [n, V, C + D] of images first .. first + n - 1 where filled [n, V]; what is there already stays."""
        num_images, num_views, row_width = rows.shape
        offset = first * num_views * row_width * ITEM_BYTES
        with self._locked():
            there = self._bits(first, num_images)
            with self._rows.open("rb") as file:
                before = np.frombuffer(os.pread(file.fileno(), rows.numel() * ITEM_BYTES, offset), np.float16)
            kept = torch.from_numpy(before.copy()).view_as(rows)
            merged = torch.where((filled & ~there)[..., None], rows, kept)
            _write_at(self._rows, offset, merged.numpy().tobytes())
            bits = np.packbits((filled | there).numpy(), axis=1)
            _write_at(self._filled, first * self._bits_in_row, bits.tobytes())

    def _bits(self, first: int, num_images: int) -> Tensor:
        with self._filled.open("rb") as file:
            raw = os.pread(file.fileno(), num_images * self._bits_in_row, first * self._bits_in_row)
        bits = np.frombuffer(raw, np.uint8).reshape(num_images, self._bits_in_row)
        return torch.from_numpy(np.unpackbits(bits, axis=1, count=self.key.num_views)).bool()

    def _make(self, precision: str) -> None:
        """table.json comes last: who finds it finds the others."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._locked():
            if (self.folder / "table.json").is_file():  # another was quicker
                return
            for path, size in self._sizes.items():
                with path.open("ab") as file:
                    file.truncate(size)
            write_json(self.folder / "table.json", self.key.fields | {"computed_in": precision})

    @contextmanager
    def _locked(self) -> Iterator[None]:
        path = self.folder / ".lock"
        try:
            with lock_at(path).acquire(timeout=LOCK_WAIT_S):
                yield
        except Timeout:
            raise RunFailed(f"'{path}' was held by another for {LOCK_WAIT_S:g} s; look for who writes there") from None

    def _check(self) -> None:
        found = read_json(self.folder / "table.json")
        self.precision: str = found.get("computed_in", self.key.precision)
        for name, wanted in self.key.fields.items():
            if found.get(name) != wanted:
                raise ConfigError(
                    f"teacher's table '{self.folder}' was made with {name} {found.get(name)}, this run has {wanted}; "
                    "remove the table, and it is made again"
                )
        for path, size in self._sizes.items():
            if not path.is_file() or path.stat().st_size != size:
                raise ConfigError(f"teacher's table '{path}' is not {size} bytes long; remove '{self.folder}'")


def visited(views: Views, rows: Tensor, num_images: int, epochs: Mapping[int, int]) -> Tensor:
    """bool [num_images, V]: which views runs show of the images `rows` in epochs {seed: how many of them}."""
    found = torch.zeros(num_images * views.count, dtype=torch.bool)
    for seed, count in epochs.items():
        for epoch in range(count):
            found[rows * views.count + views.draw(seed, epoch, rows)] = True
    return found.view(num_images, views.count)


def _write_at(path: Path, offset: int, content: bytes) -> None:
    """All of it on disk, or OSError."""
    with path.open("r+b", buffering=0) as file:
        file.seek(offset)
        rest = memoryview(content)
        while rest:
            rest = rest[file.write(rest) :]
        os.fsync(file.fileno())
