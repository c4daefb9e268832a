"""What makes a run give the same bits again: its threads, and a generator seeded anew at every step."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from raykd.data.counter_rng import DROPOUT, hash64


@contextmanager
def cpu_threads(threads: int) -> Iterator[None]:
    """Use `threads` CPU threads. Another number gives other roundings, so a run records it and keeps it."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)  # a worker's next run is another's


def seed_step(seed: int, epoch: int, step: int) -> None:
    """Seed torch for one step (dropout draws from it), so that no generator's state has to be carried."""
    torch.manual_seed(int(hash64(DROPOUT, seed, epoch, step)) & (2**63 - 1))
