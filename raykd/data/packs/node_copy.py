"""A copy of a packed data set on the node's disk, which all processes of a job on that node read.

A job sets RAYKD_NODE_DATA to a folder on the scratch space of each node, and removes the folder when it ends. The first
process that opens a pack copies it; the others wait. A pack that does not fit is read in place. This module does not
import torch.
"""

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path

from raykd.data.memory import free_bytes
from raykd.disk.file_lock import lock_at
from raykd.disk.lookup import is_file, is_folder
from raykd.provenance import file_sha256
from raykd.units import capacity

NODE_DATA = "RAYKD_NODE_DATA"
_FREE_SHARE = 0.9  # the fraction of the free space that a copy may fill
_log = logging.getLogger(__name__)


def copy_to_node(record: Path, environ: Mapping[str, str]) -> Path:
    """Return the folder from which to read the pack with the record `record`: its copy on this node, or its folder.

    The pack is read in place if RAYKD_NODE_DATA is not set. It is also read in place, with a warning, if it does not
    fit or cannot be copied.
    """
    place, pack = environ.get(NODE_DATA), record.parent
    if not place or not is_file(record):
        return pack
    copy = Path(place) / f"{pack.name}-{file_sha256(record)[:16]}"
    try:
        copy.parent.mkdir(parents=True, exist_ok=True)
        with lock_at(copy.with_name(f"{copy.name}.lock")):
            return copy if is_folder(copy) or _copy(pack, copy) else pack
    except OSError as error:
        _log.warning("%s is read in place: it cannot be copied to %s (%s)", pack, place, error.strerror or error)
        return pack


def _copy(pack: Path, copy: Path) -> bool:
    """Copy the pack under another name, and rename it. Return False if there is too little space."""
    size, free = sum(file.stat().st_size for file in pack.iterdir()), free_bytes(copy.parent)
    if size > _FREE_SHARE * free:
        sizes = f"{capacity(size)}, and {capacity(free)} are free"
        _log.warning("%s is read in place: it has %s in %s", pack, sizes, copy.parent)
        return False
    _log.info("copying %s (%s) to %s", pack, capacity(size), copy.parent)
    temporary = copy.with_name(f".{copy.name}")
    try:
        shutil.rmtree(temporary, ignore_errors=True)  # left by a process that was killed
        shutil.copytree(pack, temporary)
        temporary.rename(copy)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return True
