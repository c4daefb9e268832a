"""Child processes that tests can kill. A server that has loaded torch forks them, so that a start takes 50 ms."""

import multiprocessing
from collections.abc import Callable
from multiprocessing.context import ForkServerContext, ForkServerProcess

import small_runs  # imported by the children

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
