"""Random numbers as a function of counters: no state, the same bits on CPU and CUDA, in any order.

    hash64(stream, seed, epoch, index) -> 64 bits

The mixing is the finaliser of SplitMix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number
generators"), chained once per counter. A torch.Generator gives other numbers on CUDA than on CPU and has a
position that a resumed run would have to restore; a hash has neither.

The first counter names the stream: what is drawn. Two streams never meet, whatever seed and epoch are.
"""

import torch
from torch import Tensor

VIEW = 1  # which crop and flip an image gets in an epoch
ORDER = 2  # in which order an epoch visits the images
SPLIT = 3  # which images are held out
SUBSET = 4  # which images a smaller training set keeps; not SPLIT, or it would pick the held-out ones again
DROPOUT = 5  # the seed of a training step's own generator
AUGMENT = 6  # the key of an image in an epoch, from which its augmentations are drawn
PARTNER = 7  # the same of the image that is mixed into it, and which one that is
CROP = 8  # from a key: the box that is cut out and resized
OPERATION = 9  # from a key: RandAugment's operations
CUTOUT = 10  # from a key: where the square lies
MIX = 11  # from a key: how two images are mixed

_WEYL = 0x9E3779B97F4A7C15
_MULTIPLIERS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
_LAST_SHIFT = 31


def hash64(*counters: int | Tensor) -> Tensor:
    """64 well-mixed bits for each combination of counters; integer tensors broadcast against each other.

    Args: one counter or more. The order matters: (1, 2) and (2, 1) differ. Integers count modulo 2^64.
    Returns: int64 of the broadcast shape, [] when all counters are integers, on the tensors' device. Read
        it as 64 bits: the sign is one of them.
    """
    state = torch.zeros((), dtype=torch.int64)
    for counter in counters:
        added = counter.to(torch.int64) if isinstance(counter, Tensor) else _signed(counter)
        state = _mix(state + added + _signed(_WEYL))
    return state


def uniform_int(bits: Tensor, n: int | Tensor) -> Tensor:
    """Integers in 0 .. n - 1 from 64 random bits each, int64, any shape; 1 <= n < 2^31, one for all or int64 for each.

    The upper 32 bits scaled by n (Lemire 2019, arXiv:1805.10941, without the rejection). Probabilities
    differ by at most n / 2^32 of themselves: 4e-8 for 162 views, far under what any run could see.
    """
    return (_shift_right(bits, 32) * n) >> 32


def uniform(bits: Tensor) -> Tensor:
    """Numbers in [0, 1) from 64 random bits each, float64, any shape: multiples of 2^-53."""
    return _shift_right(bits, 11).double() * 2.0**-53


def permutation(seed: int, epoch: int, n: int, device: torch.device | str = "cpu") -> Tensor:
    """Each of 0 .. n - 1 once, int64 [n]: the order in which epoch visits n images under seed."""
    return hash64(ORDER, seed, epoch, torch.arange(n, device=device)).argsort(stable=True)


def _mix(word: Tensor) -> Tensor:
    for places, multiplier in _MULTIPLIERS:
        word = (word ^ _shift_right(word, places)) * _signed(multiplier)  # int64 wraps: modulo 2^64
    return word ^ _shift_right(word, _LAST_SHIFT)


def _shift_right(word: Tensor, places: int) -> Tensor:
    """Logical shift. torch's >> repeats the sign of an int64, so those copies are masked away."""
    return (word >> places) & ((1 << (64 - places)) - 1)


def _signed(word: int) -> int:
    """The int64 that has the same 64 bits."""
    return (word + (1 << 63)) % (1 << 64) - (1 << 63)
