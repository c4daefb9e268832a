"""Small packs on disk, written by pyarrow row by row, without the packer."""

import hashlib
import threading
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from raykd.config.codec import write_record
from raykd.data.image_decoding import decode_whole
from raykd.data.packs.record import (
    INDEX,
    INDEX_SCHEMA,
    RECORD,
    ROWS_PER_BATCH,
    SHARD_SCHEMA,
    VERSION,
    PackRecord,
    ShardRecord,
)

CLASSES = ("ant", "bee", "wasp")


def write_pack(
    folder: Path,
    train: Sequence[bytes],
    test: Sequence[bytes],
    encoding: Literal["original", "jpeg", "raw"] = "original",
    shard_images: int = 10,
    **fields: Any,
) -> Path:
    """Write a pack of encoded images, or of raw squares uint8 [S, S, 3]; image i of a split has the label i % 3."""
    folder.mkdir(parents=True, exist_ok=True)
    index: list[dict[str, Any]] = []
    shards = {name: _write_shards(folder, name, images, encoding, shard_images, index) for name, images in
              (("train", train), ("test", test))}  # fmt: skip
    table = pa.Table.from_pylist(index, INDEX_SCHEMA)
    with pa.OSFile(str(folder / INDEX), "wb") as file, pa.ipc.new_file(file, INDEX_SCHEMA) as writer:
        writer.write_table(table)
    values: dict[str, Any] = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25), "content": "", "kind": "folder"}
    values["index_checksum"] = zlib.crc32((folder / INDEX).read_bytes())
    record = PackRecord(version=VERSION, class_names=CLASSES, encoding=encoding, **shards, **values | fields)
    write_record(folder / RECORD, record)
    return folder


def _write_shards(
    folder: Path, split: str, images: Sequence[bytes], encoding: str, shard_images: int, index: list[dict[str, Any]]
) -> tuple[ShardRecord, ...]:
    records = []
    for first in range(0, len(images), shard_images):
        rows = []
        for number, image in enumerate(images[first : first + shard_images], first):
            rows.append({"image": image, "label": number % len(CLASSES), "checksum": zlib.crc32(image)})
            side = round((len(image) / 3) ** 0.5)
            height, width = (side, side) if encoding == "raw" else decode_whole("", image).shape[:2]
            sha256 = hashlib.sha256(image).digest()
            index.append({"label": number % len(CLASSES), "height": height, "width": width, "sha256": sha256})
        name = f"{split}-{len(records):05d}.arrow"
        with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_file(file, SHARD_SCHEMA) as writer:
            writer.write_table(pa.Table.from_pylist(rows, SHARD_SCHEMA), max_chunksize=ROWS_PER_BATCH)
        records.append(ShardRecord(name, len(rows), (folder / name).stat().st_size))
    return tuple(records)


def loader_threads() -> set[threading.Thread]:
    """Return the threads of all packs that are open in this process."""
    return {thread for thread in threading.enumerate() if thread.name.startswith("raykd-loader")}


def all_end(threads: set[threading.Thread]) -> bool:
    for thread in threads:
        thread.join(timeout=10)
    return not any(thread.is_alive() for thread in threads)


def raw_square(seed: int, side: int) -> bytes:
    """Return uint8 [side, side, 3] of random pixels."""
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8).tobytes()
