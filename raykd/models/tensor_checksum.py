"""A checksum of tensors and of the metadata beside them, kept in that metadata: a safetensors file has none.

CRC-32: what is looked for is damage, of which it overlooks one in 4 billion, at 2.8 GiB/s on one core with zlib
(SHA-256 1.2, BLAKE2b 0.5).
"""

import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from raykd.errors import ConfigError

CHECKSUM = "raykd_checksum"  # others write a "checksum" of their own kind into their files


def with_checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, str]:
    """Return `metadata` with the checksum of it and of `tensors`, which lie on the CPU."""
    return {**metadata, CHECKSUM: checksum_of(tensors, metadata)}


def require_intact(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Raise ConfigError where the file `path` has a checksum that its content does not match."""
    found = metadata.get(CHECKSUM)
    rest = {name: value for name, value in metadata.items() if name != CHECKSUM}
    if found is not None and found != checksum_of(tensors, rest):
        raise ConfigError(
            f"weights file '{path}' is damaged: its content does not match its checksum; copy it again, or remove "
            f"'{CHECKSUM}' from its metadata where you changed its tensors yourself"
        )


def checksum_of(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Return 'crc32:' and 8 hex digits over names, types, shapes and bytes, in the order of the names."""
    found = 0
    for name in sorted(metadata):
        found = zlib.crc32(f"{name}={metadata[name]}\0".encode(errors="surrogatepass"), found)
    for name in sorted(tensors):
        tensor = tensors[name]
        found = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode(), found)
        found = zlib.crc32(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data, found)
    return f"crc32:{found:08x}"
