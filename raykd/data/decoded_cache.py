"""Decoded images and labels on disk, memory-mapped by the next load: seconds of decoding become a map.

One safetensors file for each identity and size, 176 MiB for CIFAR-10 at 32x32. It holds what can be made
again, so a damaged file is made again, and one that cannot be written is done without; both are logged.
"""

import logging
import re
import zlib
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from raykd.atomic import write_bytes
from raykd.data.types import Split

_log = logging.getLogger(__name__)
MAX_NAME = 60  # letters of a dataset's name in its file's
_KEYS = ("train.images", "train.labels", "test.images", "test.labels")
_UNREADABLE = (OSError, SafetensorError, RuntimeError)  # the last when the file goes while torch maps it


def path_in(cache: Path, name: str, image_size: int, identity: str) -> Path:
    """The file for these images; an identity's first 16 digits tell it apart, the file holds them all."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", name)[-MAX_NAME:].strip("-")  # of 'folder:/somewhere/flowers' too
    return cache / f"{plain}-{image_size}-{identity[:16]}.safetensors"


def read(path: Path, identity: str) -> tuple[Split, ...] | None:
    """(train, test), mapped; None when there is no file, or it is damaged or another identity's.

    The checksum costs one pass over the bytes (0.04 s), which a run is about to read anyway, and finds what
    safetensors' own check of the length does not.
    """
    if not path.exists():
        return None
    try:
        return _map(path, identity)
    except _UNREADABLE as error:
        _log.warning("%s: damaged (%s), decoding again", path, error)
        return None


def write(path: Path, identity: str, parts: tuple[Split, ...]) -> None:
    """Keeps (train, test) at path: written aside under a name of its own, flushed, renamed.

    Of several writers the first wins: replacing a whole file would pull it from under the others' maps
    where the folder is on NFS. Nobody ever sees half a file.
    """
    with suppress(*_UNREADABLE):
        _map(path, identity)
        return
    tensors = [*_stored(parts[0]), *_stored(parts[1])]
    try:
        # save_file would be one copy less, but makes files that only their owner can read
        write_bytes(path, save(dict(zip(_KEYS, tensors, strict=True)), metadata=_metadata(identity, tensors)))
    except (OSError, MemoryError) as error:
        _log.warning("%s: could not be written (%s), going on without this cache", path, error)


def _map(path: Path, identity: str) -> tuple[Split, ...]:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = [file.get_tensor(key) for key in _KEYS]
    if metadata != _metadata(identity, tensors):
        raise SafetensorError("its checksum does not match")
    images, labels = tensors[0::2], tensors[1::2]
    return tuple(Split(images[part].permute(0, 3, 1, 2), labels[part]) for part in (0, 1))


def _stored(split: Split) -> tuple[Tensor, Tensor]:
    """Images as [N, H, W, 3], contiguous: safetensors keeps no strides."""
    return split.images.permute(0, 2, 3, 1).contiguous(), split.labels.contiguous()


def _metadata(identity: str, tensors: list[Tensor]) -> dict[str, str]:
    checksum = 0
    for tensor in tensors:
        shape_and_type = f"{list(tensor.shape)} {tensor.dtype}".encode()
        checksum = zlib.crc32(tensor.contiguous().numpy().reshape(-1).data, zlib.crc32(shape_and_type, checksum))
    return {"identity": identity, "crc32": f"{checksum:08x}"}
