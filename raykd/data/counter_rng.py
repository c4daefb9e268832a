"""Random numbers as a function of counters: stateless, and bit-identical on CPU and CUDA in any order.

    hash64(stream, seed, epoch, index) -> 64 bits

The mixing is the finalizer of SplitMix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number
generators"), applied once per counter. A torch.Generator returns other numbers on CUDA than on CPU, and has a
position that a resumed run would have to restore; a hash has neither problem.

The first counter is the stream, which names the use of the numbers. Streams are independent for all seeds and epochs.
"""

import torch
from torch import Tensor

VIEW = 1  # the crop and flip of an image in an epoch
ORDER = 2  # the order of the images in an epoch
SPLIT = 3  # the images of the validation split
SUBSET = 4  # the images of a smaller training set; with SPLIT it would select those of the validation split
DROPOUT = 5  # the seed of torch's generator in a training step
AUGMENT = 6  # the key of an image in an epoch, from which its augmentations are drawn
PARTNER = 7  # the key of the partner that is mixed into an image, and the choice of the partner
CROP = 8  # drawn from a key: the box that is cropped and resized
OPERATION = 9  # drawn from a key: RandAugment's operations
CUTOUT = 10  # drawn from a key: the position of the square
MIX = 11  # drawn from a key: the weights or the box of the mixture
SAMPLE = 12  # the images of an epoch that shows each class equally often
CROP_VIEW = 13  # the key of a numbered crop of an image, from which its box and flip are drawn
ERASE = 14  # drawn from a key: the box that is erased
NOISE = 15  # drawn from a key: whether the image is erased, and where its noise begins; and the noise itself

_WEYL = 0x9E3779B97F4A7C15
_MULTIPLIERS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
_LAST_SHIFT = 31


def hash64(*counters: int | Tensor) -> Tensor:
    """Return 64 well-mixed bits for each combination of counters; integer tensors broadcast against each other.

    Args: one counter or more. The order matters: (1, 2) and (2, 1) differ. Integers count modulo 2^64.
    Returns: int64 of the broadcast shape, [] if all counters are integers, on the tensors' device. It represents
        64 bits, including the sign.
    """
    state = torch.zeros((), dtype=torch.int64)
    for counter in counters:
        added = counter.to(torch.int64) if isinstance(counter, Tensor) else _signed(counter)
        state = state + added + _signed(_WEYL)
        for places, multiplier in _MULTIPLIERS:
            state = (state ^ _shift_right(state, places)) * _signed(multiplier)  # int64 wraps: modulo 2^64
        state = state ^ _shift_right(state, _LAST_SHIFT)
    return state


def uniform_int(bits: Tensor, n: int | Tensor) -> Tensor:
    """Return integers in 0 .. n - 1 from 64 random bits each, int64, in any shape; 1 <= n < 2^31, possibly a tensor.

    The upper 32 bits are scaled by n (Lemire 2019, arXiv:1805.10941, without the rejection). Probabilities
    have a relative error of at most n / 2^32: 4e-8 for 162 views, far below what a run could detect.
    """
    return (_shift_right(bits, 32) * n) >> 32


def uniform(bits: Tensor) -> Tensor:
    """Return numbers in [0, 1) from 64 random bits each, float64, in any shape: multiples of 2^-53."""
    return _shift_right(bits, 11).double() * 2.0**-53


def non_negative(bits: Tensor) -> Tensor:
    """Return the upper 63 of 64 random bits as integers from 0, int64, in any shape."""
    return _shift_right(bits, 1)


def permutation(seed: int, epoch: int, n: int, device: torch.device | str = "cpu") -> Tensor:
    """Return a permutation of 0 .. n - 1, int64 [n]: the order of n images in an epoch."""
    return hash64(ORDER, seed, epoch, torch.arange(n, device=device)).argsort(stable=True)


def _shift_right(word: Tensor, places: int) -> Tensor:
    """Shift logically. torch's >> repeats the sign of an int64, so its copies are masked."""
    return (word >> places) & ((1 << (64 - places)) - 1)


def _signed(word: int) -> int:
    """Return the int64 with the same 64 bits."""
    return (word + (1 << 63)) % (1 << 64) - (1 << 63)
