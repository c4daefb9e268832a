"""The file systems of this node, from /proc/self/mountinfo: on which one a folder is, and with which options.

Network file systems (Lustre, BeeGFS, NFS, GPFS) and file systems in memory (tmpfs) behave differently from a local
disk: a copy gains nothing or takes memory, and locks may be those of one node only.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

_TABLE = Path("/proc/self/mountinfo")
_LOCAL_DISKS = ("bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "jfs", "overlay", "reiserfs", "xfs", "zfs")
_IN_MEMORY = ("tmpfs", "ramfs")


@dataclass(frozen=True)
class Mount:
    """A mounted file system. kind: 'ext4' or 'lustre', for example."""

    point: str
    kind: str
    options: frozenset[str]

    @property
    def is_local_disk(self) -> bool:
        return self.kind in _LOCAL_DISKS

    @property
    def is_in_memory(self) -> bool:
        return self.kind in _IN_MEMORY


def mount_of(path: Path) -> Mount | None:
    """Return the file system of `path`, which need not exist; None on a system without /proc."""
    try:
        lines = _TABLE.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return None
    real = os.path.realpath(path)
    best = None
    for mount in map(_parsed, lines):
        is_above = real == mount.point or real.startswith(mount.point.rstrip("/") + "/")
        if is_above and (best is None or len(mount.point) >= len(best.point)):  # a later mount hides an earlier one
            best = mount
    return best


def _parsed(line: str) -> Mount:
    """Parse '36 35 98:0 /root /mnt rw,noatime shared:1 - ext3 /dev/sda1 rw,errors=continue' (proc(5))."""
    before, _, after = line.partition(" - ")
    fields, (kind, _, *last) = before.split(" "), after.split(" ")
    point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4])
    return Mount(point, kind, frozenset(",".join([fields[5], *last]).split(",")))
