"""Child processes that tests can kill. A server that has loaded torch forks them, so that a start takes 50 ms."""

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

import small_runs  # imported by the children

from raykd.store.run_folder import RunFolder

PRELOADED = [
    small_runs.__name__,
    "raykd.training.loop",
    "timm.models.vision_transformer",
    "torch._dynamo",  # which torch imports when the first optimizer is made
]
TIMEOUT_S = 120


def context() -> ForkServerContext:
    """Return a multiprocessing context whose processes are forked with PRELOADED modules."""
    forkserver = multiprocessing.get_context("forkserver")
    forkserver.set_forkserver_preload(PRELOADED)
    return forkserver


def start(function: Callable[..., object], *arguments: object) -> ForkServerProcess:
    """Start `function(*arguments)` in a child process. The function must be importable."""
    process = context().Process(target=function, args=arguments, daemon=True)
    process.start()
    return process


def wait(process: ForkServerProcess) -> int:
    """Return the exit code: 0, 1 after an exception, or -9 if it was killed."""
    process.join(TIMEOUT_S)
    if process.is_alive():
        process.kill()
        raise TimeoutError(f"the child process still runs after {TIMEOUT_S} s")
    assert process.exitcode is not None
    return process.exitcode


def hold_lock(path: Path) -> ForkServerProcess:
    """Hold the lock of the run in the folder `path` in a child process until it is killed."""
    locked = path.parent / "locked"
    process = start(_hold_lock, path, locked)
    while not locked.exists() and process.is_alive():
        time.sleep(0.01)
    return process


def _hold_lock(path: Path, locked: Path) -> None:
    with RunFolder(path).lock():
        locked.touch()
        time.sleep(TIMEOUT_S)
