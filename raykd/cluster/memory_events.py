"""What the kernel does when the memory of the job is full on this node, from the job's control groups (cgroup v2).

By default it kills the largest process. With `TaskPluginParam=OOMKillStep` in Slurm's configuration, memory.oom.group
is 1 and it kills all processes of the step: this script, Ray and every run. In both cases Slurm ends the job in the
state OUT_OF_MEMORY, whatever its exit code.
"""

from collections.abc import Iterator
from pathlib import Path

from raykd.errors import plural

_ROOT, _MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def kills_everything() -> bool:
    """Return whether the kernel kills all processes of the job here if its memory is full."""
    return any(_read(group / "memory.oom.group").strip() == "1" for group in _groups())


def kills() -> str:
    """Return a sentence about the processes that the kernel has killed for their memory, or '' if there are none."""
    counts = [int(words[1]) for words in map(str.split, _events()) if len(words) == 2 and words[0] == "oom_kill"]
    if not (count := max(counts, default=0)):
        return ""
    were = "was" if count == 1 else "were"
    processes = plural(count, "process", "processes")
    return (
        f"{processes} {were} killed because the job's memory was full; Slurm reports OUT_OF_MEMORY; request more --mem"
    )


def _events() -> Iterator[str]:
    for group in _groups():
        yield from _read(group / "memory.events").splitlines()


def _groups() -> list[Path]:
    """Return this process's control group and those above it, up to that of the Slurm job; [] outside of a job."""
    lines = _read(_MEMBERSHIP).splitlines()
    path = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
    group = _ROOT / path
    levels = [level for level in (group, *group.parents) if level.is_relative_to(_ROOT)]
    jobs = [index for index, level in enumerate(levels) if level.name.startswith("job_")]
    return levels[: jobs[-1] + 1] if jobs else []


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
