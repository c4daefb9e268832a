"""Kill processes of this job's Ray cluster whose name ends with WORD, then test whether Ray still works."""

import os
import sys
import time
from pathlib import Path

import psutil
import ray

ray.init(log_to_driver=False)
folder = str(Path(os.environ["RAY_AUTH_TOKEN_PATH"]).parent)
marker, word = Path(sys.argv[2]), sys.argv[1]


def commands_of(process: psutil.Process | None) -> list[str]:
    """Return the words of a process's command line, or [] if it has ended."""
    try:
        return process.cmdline() if process is not None else []
    except psutil.Error:
        return []


def is_of_this_ray(process: psutil.Process) -> bool:
    """Return whether the process or its parent has a path of this Ray cluster in its command line.

    An agent's command line is only its name, and its environment is not readable in every job.
    """
    try:
        words = [*commands_of(process), *commands_of(process.parent())]
    except psutil.Error:
        return False
    return any(folder in part for part in words)


def is_left_behind(process: psutil.Process) -> bool:
    """Return whether `ray start` has ended: before, the parent of the dashboard is that command."""
    parent = commands_of(process.parent())
    return any("subreaper" in part or part.endswith("/raylet") for part in parent)


def named() -> list[psutil.Process]:
    """Return the processes of this Ray cluster with that name."""
    found = []
    for process in psutil.process_iter():
        words = commands_of(process)
        is_named = any(part.strip().endswith(word) for part in words)
        is_driver = any("kills_dashboard" in part for part in words)
        if is_named and not is_driver and is_of_this_ray(process) and is_left_behind(process):
            found.append(process)
    return found


if not marker.exists():  # after a restart of Ray this is the second driver
    marker.touch()
    while not named():  # `ray start` ends, and an agent gets its name, some seconds after the driver was started
        time.sleep(0.2)
    time.sleep(2)  # the subreaper records the commands of what `ray start` left behind
    for process in named():
        print("killed", commands_of(process)[:2], flush=True)
        process.kill()
    time.sleep(5)
print("task says", ray.get(ray.remote(lambda: "fine").remote()), flush=True)
