"""Threads that decode images while the caller trains or evaluates.

Threads suffice, because the decoders release Python's lock. They share the memory-mapped files, and start at no cost.
Work is started in parts of a few images, so that the threads finish a batch together.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from math import ceil
from threading import Barrier

import torch
from torch import Tensor

from raykd.errors import RunFailed

MAX_PART = 8  # images that a thread decodes as one part of a batch


class LoaderThreads:
    """A pool of `count` threads, which start with the first batch; None for as many as torch computes with.

    They end with this object or with the process, after the images that they are decoding. waited_s: the seconds that
    callers have waited for images so far. The first batch raises RunFailed if the system cannot start so many threads.
    """

    def __init__(self, count: int | None) -> None:
        self._count, self.waited_s = count, 0.0

    @cached_property
    def count(self) -> int:
        """The number of threads."""
        return self._count or torch.get_num_threads()

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        pool = ThreadPoolExecutor(self.count, thread_name_prefix="raykd-loader")
        _limit_torch_to_one_thread(pool, self.count)
        return pool

    def start(self, pixels: Tensor, num_items: int, fill: Callable[[int, int], None]) -> "PendingPixels":
        """Fill `pixels`: call fill(first, end) in the threads, for ranges that together are 0 .. num_items - 1."""
        part = max(1, min(MAX_PART, ceil(num_items / (2 * self.count))))
        starts = range(0, num_items, part)
        futures = [self._pool.submit(fill, first, min(first + part, num_items)) for first in starts]
        return PendingPixels(self, pixels, futures)

    def num_ahead(self, num_items: int) -> int:
        """Return the number of batches of `num_items` images to decode ahead, so that every thread has work."""
        return 2 + 2 * self.count // max(1, num_items)


class PendingPixels:
    """Pixels uint8 [B, S, S, 3] that LoaderThreads decode."""

    def __init__(self, threads: LoaderThreads, pixels: Tensor, futures: list[Future[None]]) -> None:
        self._threads, self._pixels, self._futures = threads, pixels, futures

    def wait(self) -> Tensor:
        """Return the pixels as [B, 3, S, S] when all are decoded.

        Raises the first exception of a thread, after cancelling the other parts.
        """
        start = time.perf_counter()
        try:
            for future in self._futures:
                future.result()
        finally:
            self.cancel()  # does nothing to finished parts
            self._threads.waited_s += time.perf_counter() - start
        return self._pixels.permute(0, 3, 1, 2)

    def cancel(self) -> None:
        """Cancel the parts that no thread has started."""
        for future in self._futures:
            future.cancel()


def _limit_torch_to_one_thread(pool: ThreadPoolExecutor, count: int) -> None:
    """Limit torch to one thread in each thread of the pool. By default, each would start a team of threads.

    A thread reads torch's number of threads when it first computes, so each of these reads it before setting it to 1.
    The number that was set last also applies to threads that start later, so the old number is set again at the end.
    """
    num_threads, all_started = torch.get_num_threads(), Barrier(count)

    def limit() -> None:
        all_started.wait()  # every thread must do this once
        torch.get_num_threads()
        torch.set_num_threads(1)

    try:
        started = [pool.submit(limit) for _ in range(count)]
    except RuntimeError as error:  # the system refuses another thread
        all_started.abort()  # or those that have started would wait forever
        raise RunFailed(f"workers.loaders = {count}: {error}; set it to fewer threads") from error
    for future in started:
        future.result()
    torch.set_num_threads(num_threads)
