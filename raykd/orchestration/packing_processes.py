"""Write the shards of a pack in several processes of this machine.

The processes ignore Ctrl-C, which their parent handles, and end with their parent, however it ends.
"""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor
from concurrent.futures import wait as wait_for
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import wait
from pathlib import Path
from threading import Thread

from raykd.cluster.group_signals import GROUP_SIGNALS, blocked_in_children
from raykd.data.packs.errors import pack_command
from raykd.data.packs.shard import ShardTask, WrittenShard, write_shard
from raykd.errors import RunFailed

KILLED = (
    "a process that packs images was killed, perhaps for its memory; {remedy}, and rerun the same command, which keeps "
    "the complete shards"
)
POLL_S = 1.0  # how long to wait for a shard before looking whether to stop


class PackingKilled(RunFailed):
    """A process of this machine that packs images was killed."""

    def __init__(self, remedy: str = "lower --jobs") -> None:
        super().__init__(KILLED.format(remedy=remedy))

    def with_commands(self, name: str, data_folder: Path) -> RunFailed:
        """Return the error for an experiment on the data set `name`, which has no --jobs."""
        command = pack_command(name, data_folder, "--jobs N")
        return PackingKilled(f"pack in fewer processes ({command}) and set data.name to the name that it prints")


def write_in_processes(
    tasks: Sequence[ShardTask], num_processes: int, should_stop: Callable[[], bool] = lambda: False
) -> Iterator[WrittenShard]:
    """Yield the shard of each task when it is written, until `should_stop` returns true.

    Raises what `write_shard` raises; PackingKilled if a process is killed.
    """
    context = multiprocessing.get_context("forkserver")  # a fork of this process would copy its threads' locks
    before = set(multiprocessing.active_children())
    context.set_forkserver_preload([write_shard.__module__])  # imported once, and not by each process
    _start_forkserver()
    with ProcessPoolExecutor(min(num_processes, len(tasks)), context, _end_with_parent) as pool:
        try:
            left = {pool.submit(write_shard, task) for task in tasks}
            while left and not should_stop():
                done, left = wait_for(left, POLL_S, FIRST_COMPLETED)
                yield from (written.result() for written in done)
        except BrokenProcessPool as error:
            raise PackingKilled from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            # The interpreter would wait for the shards in progress, which a rerun writes from the start.
            for process in set(multiprocessing.active_children()) - before:
                process.kill()


def _start_forkserver() -> None:
    """Start the server that forks the processes, and the tracker of their semaphores.

    A signal to all processes of the command must not end them. The tracker, which ignores SIGINT and SIGTERM, unblocks
    these in this process too. So it is started first, in a separate block.
    """
    with blocked_in_children():
        resource_tracker.ensure_running()
    with blocked_in_children(GROUP_SIGNALS | {signal.SIGINT}):
        forkserver.ensure_running()


def _end_with_parent() -> None:
    """Ignore Ctrl-C, and end this process when its parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None, "this is a process of the pool"

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    Thread(target=watch, daemon=True).start()
