"""What makes a run give the same bits again: its threads, and a generator seeded anew at every step."""

import torch

from raykd.data.counter_rng import DROPOUT, hash64


def set_threads(threads: int) -> None:
    """Use `threads` CPU threads. Another number gives other roundings, so a run records it and keeps it."""
    torch.set_num_threads(threads)


def seed_step(seed: int, epoch: int, step: int) -> None:
    """Seed torch for one step (dropout draws from it), so that no generator's state has to be carried."""
    torch.manual_seed(int(hash64(DROPOUT, seed, epoch, step)) & (2**63 - 1))
