"""Decoded images and labels on disk, so that the next load maps them into memory instead of decoding for seconds.

One safetensors file per identity and size, 176 MiB for CIFAR-10 at 32x32. The cache can always be rebuilt: a damaged
file is decoded again, and a file that cannot be written is skipped. Both are logged.
"""

import logging
import re
import zlib
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from raykd.data.types import Split
from raykd.disk.atomic import write_bytes
from raykd.disk.lookup import is_there

_log = logging.getLogger(__name__)
_MAX_NAME = 60  # letters of the data set's name in the file's name
_KEYS = ("train.images", "train.labels", "test.images", "test.labels")
_UNREADABLE = (OSError, SafetensorError, RuntimeError)  # the last if the file disappears while torch maps it


def cache_path(cache: Path, name: str, image_size: int, identity: str) -> Path:
    """Return the file for these images. Its name has 16 digits of the identity; the file itself has all of them."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", name)[-_MAX_NAME:].strip("-")  # 'folder:/somewhere/flowers' has a path
    return cache / f"{plain}-{image_size}-{identity[:16]}.safetensors"


def read(path: Path, identity: str) -> tuple[Split, Split] | None:
    """Return (train, test), memory-mapped; None if the file is missing, damaged, or of another identity.

    The checksum costs one pass over the bytes (0.04 s), which training reads anyway, and detects damage that
    safetensors' check of the length does not.
    """
    if not is_there(path):
        return None
    try:
        return _map(path, identity)
    except _UNREADABLE as error:
        _log.warning("%s: damaged (%s), decoding again", path, error)
        return None


def write(path: Path, identity: str, splits: tuple[Split, Split]) -> None:
    """Write (train, test) to `path`: to a temporary file that is flushed and renamed, so that no reader sees a part.

    Of several writers the first wins: on NFS, replacing a complete file would invalidate the memory maps of other
    processes.
    """
    with suppress(*_UNREADABLE):
        _map(path, identity)
        return
    tensors = [*_to_stored(splits[0]), *_to_stored(splits[1])]
    try:
        # save_file would make one copy less, but its files are readable by their owner only.
        write_bytes(path, save(dict(zip(_KEYS, tensors, strict=True)), metadata=_metadata(identity, tensors)))
    except (OSError, MemoryError) as error:
        _log.warning("%s: could not be written (%s), continuing without this cache", path, error)


def _map(path: Path, identity: str) -> tuple[Split, Split]:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = [file.get_tensor(key) for key in _KEYS]
    if metadata != _metadata(identity, tensors):
        raise SafetensorError("its checksum does not match")
    train_images, train_labels, test_images, test_labels = tensors
    train = Split(train_images.permute(0, 3, 1, 2), train_labels)
    return train, Split(test_images.permute(0, 3, 1, 2), test_labels)


def _to_stored(split: Split) -> tuple[Tensor, Tensor]:
    """Return images as [N, H, W, 3], contiguous, and labels: safetensors does not store strides."""
    return split.pixels.permute(0, 2, 3, 1).contiguous(), split.labels.contiguous()


def _metadata(identity: str, tensors: list[Tensor]) -> dict[str, str]:
    checksum = 0
    for tensor in tensors:
        shape_and_type = f"{list(tensor.shape)} {tensor.dtype}".encode()
        checksum = zlib.crc32(tensor.contiguous().numpy().reshape(-1).data, zlib.crc32(shape_and_type, checksum))
    return {"identity": identity, "crc32": f"{checksum:08x}"}
