"""Child processes to be killed: real ones, forked from a server that has torch loaded, so that a start takes 50 ms."""

import multiprocessing
from collections.abc import Callable
from multiprocessing.context import ForkServerContext, ForkServerProcess

import small_runs  # the children's imports, and proof that they can be found

PRELOADED = [small_runs.__name__, "raykd.training.loop", "sklearn.datasets", "timm.models.vision_transformer"]
TIMEOUT_S = 120


def context() -> ForkServerContext:
    """A multiprocessing context whose queues and processes go together."""
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(PRELOADED)
    return made


def start(function: Callable[..., object], *arguments: object) -> ForkServerProcess:
    """`function(*arguments)` in a process of its own; it must be importable."""
    process = context().Process(target=function, args=arguments, daemon=True)
    process.start()
    return process


def wait(process: ForkServerProcess) -> int:
    """The exit code: 0, 1 after an exception, or -9 when it was killed."""
    process.join(TIMEOUT_S)
    if process.is_alive():
        process.kill()
        raise TimeoutError(f"a child was still at work after {TIMEOUT_S} s")
    assert process.exitcode is not None
    return process.exitcode
