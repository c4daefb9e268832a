"""How much memory is left, and whether a dataset fits into it."""

import errno
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from math import isqrt
from pathlib import Path

from raykd.errors import DataError

WHILE_DECODED = 2  # the pixels, and the bytes of the file that keeps them decoded
_GB = 1e9
# Of each version of control groups: where they are mounted; limit, use, and what of the use is files and can go.
_GROUPS = {
    1: ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", ("total_cache", "total_shmem")),
    2: ("/sys/fs/cgroup", "memory.max", "memory.current", ("file", "shmem")),
}


def require_room(place: Path, num_images: int, image_size: int) -> None:
    """Raise DataError, with the numbers, when uint8 [num_images, 3, image_size, image_size] does not fit."""
    of_a_pixel = num_images * 3
    wanted, free = of_a_pixel * image_size**2, available_bytes()
    if free is None or WHILE_DECODED * wanted <= free:
        return
    largest = isqrt(free // (WHILE_DECODED * of_a_pixel))
    raise DataError(
        f"{place}: {num_images:,} images of {image_size}x{image_size} take {wanted / _GB:.1f} GB of memory, and "
        f"{WHILE_DECODED * wanted / _GB:.1f} GB while they are decoded, but {free / _GB:.1f} GB are free; ask for more "
        f"memory, or for smaller images: --set data.image_size={largest} or less"
    )


@contextmanager
def shortage_named(what: str) -> Iterator[None]:
    """Turn a failed allocation of Python, numpy, torch, Arrow or Pillow into a DataError that begins with `what`."""
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if not _is_shortage(error):
            raise
        left = available_bytes()
        free = "" if left is None else f", {left / _GB:.1f} GB are free"
        raise DataError(
            f"{what}: there is not enough memory to read the images ({_reason(error)}){free}; ask for more memory "
            "(--mem, or ulimit -v), or for smaller images: --set data.image_size"
        ) from error


def _is_shortage(error: Exception) -> bool:
    """torch raises a RuntimeError, threads too, and a memory map an OSError."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    text = str(error)
    return isinstance(error, MemoryError) or "allocate memory" in text or "can't start new thread" in text


def _reason(error: Exception) -> str:
    """The first line of an error without the address in the code that torch puts before it."""
    text = str(error).strip().splitlines()[0] if str(error).strip() else "no more was given"
    return text.rpartition("DefaultCPUAllocator: ")[2]


def available_bytes() -> int | None:
    """What this process may still take: of the machine, its control group (a Slurm job's) or its limit (ulimit -v).

    None where there is no /proc to ask.
    """
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        memberships = Path("/proc/self/cgroup").read_text()
        num_pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    left = [] if limit == resource.RLIM_INFINITY else [max(0, limit - num_pages * resource.getpagesize())]
    return min(int(lines["MemAvailable"].split()[0]) * 1024, *_of_groups(memberships), *left)


def _of_groups(memberships: str) -> list[int]:
    """For each group that limits memory, from the process's own up to the root."""
    found = []
    for line in memberships.splitlines():
        _, controllers, path = line.split(":", 2)
        version = 1 if "memory" in controllers.split(",") else 2 if not controllers else 0
        if version:
            mounted = Path(_GROUPS[version][0])
            group = mounted / path.strip("/")
            levels = [level for level in (group, *group.parents) if level.is_relative_to(mounted)]
            found += [left for level in levels if (left := _of_group(level, version)) is not None]
    return found


def _of_group(group: Path, version: int) -> int | None:
    """None where there is no limit, or where it cannot be read: inside a container most cannot."""
    _, limit, use, (files, not_files) = _GROUPS[version]
    try:
        most, used = (group / limit).read_text().strip(), int((group / use).read_text())
        parts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    if most == "max":
        return None
    return int(most) - used + int(parts.get(files, 0)) - int(parts.get(not_files, 0))
