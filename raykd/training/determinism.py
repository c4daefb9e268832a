"""What makes a run give the same bits again: its threads, and a seed for each of its steps."""

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


def generator_of(device: torch.device) -> torch.Generator:
    """The one that dropout on `device` draws from. torch.manual_seed would seed all there are, in 0.1 ms a step."""
    if device.type == "cuda":
        torch.cuda.init()
        return torch.cuda.default_generators[torch.cuda.current_device() if device.index is None else device.index]
    return torch.default_generator


def step_seeds(seed: int, epoch: int, steps: int, rank: int = 0) -> list[int]:
    """A seed for torch at each step of an epoch (dropout draws from it): no generator's state has to be carried.

    Workers draw apart, or each would drop the same units of its images.
    """
    counters = torch.arange(steps) + (rank << 32)
    return [bits & (2**63 - 1) for bits in hash64(DROPOUT, seed, epoch, counters).tolist()]
