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
LOCAL_LOCKS = (
    "{folder} is on BeeGFS ({point}), whose file locks hold on one node only by default: let no two jobs train the "
    "same runs there concurrently, unless the administrators set tuneUseGlobalFileLocks=true"
)
_BEEGFS = "/etc/beegfs/beegfs-client.conf"
_GLOBAL_LOCKS = re.compile(r"^\s*tuneUseGlobalFileLocks\s*=\s*(true|1)\b", re.MULTILINE)
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

    @property
    def has_local_locks(self) -> bool:
        """Whether a file lock excludes the processes of one node only."""
        return self.kind == "lustre" and "localflock" in self.options

    @property
    def may_have_local_locks(self) -> bool:
        """Whether that may be so, which is BeeGFS's default; its client's configuration can change it."""
        config = next((option.partition("=")[2] for option in self.options if option.startswith("cfgFile=")), "")
        return self.kind == "beegfs" and not _GLOBAL_LOCKS.search(_text_of(Path(config or _BEEGFS)))


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


def _text_of(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _parsed(line: str) -> Mount:
    """Parse '36 35 98:0 /root /mnt rw,noatime shared:1 - ext3 /dev/sda1 rw,errors=continue' (proc(5))."""
    before, _, after = line.partition(" - ")
    fields, (kind, _, *last) = before.split(" "), after.split(" ")
    point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4])
    return Mount(point, kind, frozenset(",".join([fields[5], *last]).split(",")))
