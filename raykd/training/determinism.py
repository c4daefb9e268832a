"""Reproducible runs: a fixed number of CPU threads, and a separate seed for each step."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from raykd.data.counter_rng import DROPOUT, hash64


@contextmanager
def cpu_threads(threads: int) -> Iterator[None]:
    """Use `threads` CPU threads inside the context. A run keeps their number, because rounding depends on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)  # restored for the worker's next run


def generator_of(device: torch.device) -> torch.Generator:
    """Return the generator that dropout on `device` uses. torch.manual_seed seeds all devices, in 0.1 ms per step."""
    if device.type == "cuda":
        torch.cuda.init()
        return torch.cuda.default_generators[torch.cuda.current_device() if device.index is None else device.index]
    return torch.default_generator


def step_seeds(seed: int, epoch: int, steps: int, rank: int = 0) -> list[int]:
    """Return torch's seed for each step of an epoch. Dropout draws from it, so no generator state is checkpointed.

    Seeds differ between workers: otherwise all would drop the same units.
    """
    counters = torch.arange(steps) + (rank << 32)
    return [bits & (2**63 - 1) for bits in hash64(DROPOUT, seed, epoch, counters).tolist()]
