"""A control group that limits the memory of processes, its cached files included, as a Slurm job has one."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class LimitedMemory:
    """A control group. The kernel kills a process of it that does not fit."""

    folder: Path

    def command(self, *words: str) -> list[str]:
        """Return the command that joins the group and then runs the program `words`."""
        return ["/bin/sh", "-c", 'echo $$ > "$0" && exec "$@"', str(self.folder / "cgroup.procs"), *words]

    @property
    def peak_bytes(self) -> int | None:
        """The most memory that the group has used, cached files included; None on kernels that do not record it."""
        files = (self.folder / name for name in ("memory.peak", "memory.max_usage_in_bytes"))
        return next((int(file.read_text()) for file in files if file.exists()), None)

    @property
    def num_killed(self) -> int:
        """The number of processes that the kernel killed because they did not fit."""
        events = next(path for name in ("memory.events", "memory.oom_control") if (path := self.folder / name).exists())
        counts = dict(line.split() for line in events.read_text().splitlines())
        return int(counts["oom_kill"])


@contextmanager
def limited_memory(num_bytes: int) -> Iterator[LimitedMemory | None]:
    """Yield a group with a limit of `num_bytes`; None where groups cannot be made, such as without root."""
    parent, limit = (ROOT, "memory.max") if (ROOT / "cgroup.controllers").exists() else (ROOT / "memory", None)
    folder = parent / f"raykd-test-{os.getpid()}"
    try:
        folder.mkdir()
        (folder / (limit or "memory.limit_in_bytes")).write_text(str(num_bytes))
    except OSError:
        if folder.is_dir():
            folder.rmdir()
        yield None
        return
    try:
        yield LimitedMemory(folder)
    finally:
        _wait_until_empty(folder)
        folder.rmdir()


def _wait_until_empty(folder: Path) -> None:
    """Wait for the helpers of a killed process, such as multiprocessing's, to notice that it has ended."""
    deadline = time.monotonic() + 20
    while (folder / "cgroup.procs").read_text():
        assert time.monotonic() < deadline, f"processes are left in {folder}"
        time.sleep(0.1)


def has_limits() -> bool:
    """Return whether this process may make control groups."""
    with limited_memory(1 << 30) as group:
        return group is not None
