"""The memory that is still available, and errors for data sets that do not fit into it.

The limits of a Slurm job are read from cgroup v2. On a system with cgroup v1, the memory of the whole node
counts.
"""

import errno
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from math import isqrt
from pathlib import Path

from raykd.disk.mounts import mount_of
from raykd.errors import DataError
from raykd.units import capacity

COPIES_WHILE_DECODING = 2  # the pixels, and the bytes of the cache file that stores them
_CGROUP_ROOT = Path("/sys/fs/cgroup")  # cgroup v2


def require_memory(place: Path, num_images: int, image_size: int) -> None:
    """Raise DataError, with the sizes, if uint8 [num_images, 3, image_size, image_size] does not fit into memory."""
    bytes_per_pixel = num_images * 3
    required, available = bytes_per_pixel * image_size**2, available_bytes()
    if available is None or COPIES_WHILE_DECODING * required <= available:
        return
    largest = isqrt(available // (COPIES_WHILE_DECODING * bytes_per_pixel))
    raise DataError(
        f"{place}: {num_images:,} images of {image_size}x{image_size} take {capacity(required)} of memory, and "
        f"{capacity(COPIES_WHILE_DECODING * required)} while they are decoded, but {capacity(available)} are "
        f"free; request more memory, or smaller images: --set data.image_size={largest} or less"
    )


@contextmanager
def report_shortage(name: str) -> Iterator[None]:
    """Turn a failed allocation of Python, numpy, torch, Arrow or Pillow into a DataError that begins with `name`."""
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if not _is_shortage(error):
            raise
        available = available_bytes()
        free = "" if available is None else f", {capacity(available)} are free"
        raise DataError(
            f"{name}: there is not enough memory to read the images ({_reason(error)}){free}; request more memory "
            "(--mem, or ulimit -v), or smaller images: --set data.image_size"
        ) from error


def _is_shortage(error: Exception) -> bool:
    """Return whether an allocation failed. torch and threading raise RuntimeError then, and a memory map OSError."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    text = str(error)
    return isinstance(error, MemoryError) or "allocate memory" in text or "can't start new thread" in text


def _reason(error: Exception) -> str:
    """Return the first line of an error, without the C++ source location that torch puts before it."""
    text = str(error).strip().splitlines()[0] if str(error).strip() else "no reason was given"
    return text.rpartition("DefaultCPUAllocator: ")[2]


def available_bytes() -> int | None:
    """Return the memory that this process may still allocate; None without /proc.

    It is the least of the machine's available memory, the limits of the control groups (of a Slurm job, for example),
    and the limit of the address space (ulimit -v).
    """
    try:
        meminfo = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        memberships = Path("/proc/self/cgroup").read_text()
        num_pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return None
    available = [int(meminfo["MemAvailable"].split()[0]) * 1024, *_available_in_groups(memberships)]
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        available.append(max(0, limit - num_pages * resource.getpagesize()))
    return min(available)


def free_bytes(folder: Path) -> int:
    """Return the bytes that a copy in `folder` may have. On tmpfs it takes memory, and half of it is left to runs."""
    free, mount, available = shutil.disk_usage(folder).free, mount_of(folder), available_bytes()
    is_in_memory = mount is not None and mount.is_in_memory
    return free if not is_in_memory or available is None else min(free, available // 2)


def _available_in_groups(memberships: str) -> list[int]:
    """Return the memory left in each group that limits it, from this process's group up to the root.

    memberships: the content of /proc/self/cgroup; cgroup v2 has the line "0::/path".
    """
    path = next((line.removeprefix("0::") for line in memberships.splitlines() if line.startswith("0::")), None)
    if path is None:
        return []
    group = _CGROUP_ROOT / path.strip("/")
    levels = [level for level in (group, *group.parents) if level.is_relative_to(_CGROUP_ROOT)]
    return [available for level in levels if (available := _available_in_group(level)) is not None]


def _available_in_group(group: Path) -> int | None:
    """Return the memory left in one group; None without a limit, or if its files cannot be read (most containers)."""
    try:
        limit, used = (group / "memory.max").read_text().strip(), int((group / "memory.current").read_text())
        parts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    if limit == "max":
        return None
    reclaimable = int(parts.get("file", 0)) - int(parts.get("shmem", 0))  # cached files; shared memory is no file
    return int(limit) - used + reclaimable
