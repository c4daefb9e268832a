"""The counter-based hash against integer arithmetic in Python, and its statistical properties."""

import pytest
import torch

from raykd.data import counter_rng
from raykd.data.counter_rng import ORDER, SPLIT, SUBSET, VIEW, hash64, permutation, uniform_int

WORD = 2**64
GOLDEN_BITS = [16321491304643971414, 14348945751806334216, 14517151034272270222]
GOLDEN_ORDER = [1, 0, 9, 5, 6, 4, 2, 3, 8, 7]


def reference_hash(*counters: int) -> int:
    """Compute SplitMix64's finalizer in Python's integers."""
    state = 0
    for counter in counters:
        state = (state + counter + 0x9E3779B97F4A7C15) % WORD
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % WORD
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB % WORD
        state ^= state >> 31
    return state


@pytest.mark.parametrize(
    "counters", [(0,), (1,), (0, 0), (1, 2, 3), (2, 1, 3), (-1,), (2**63,), (2**64 - 1, 5), (VIEW, 0, 299, 49_999)]
)
def test_hash_equals_integer_arithmetic(counters: tuple[int, ...]) -> None:
    assert hash64(*counters).item() % WORD == reference_hash(*counters)
    as_tensors = [torch.tensor(counter if counter < 2**63 else counter - WORD) for counter in counters]
    assert hash64(*as_tensors).item() % WORD == reference_hash(*counters)


def test_hash_of_zero_is_the_first_output_of_splitmix64_from_seed_zero() -> None:
    # the published sequence for seed 0, which is independent of the reference above
    assert hash64(0).item() % WORD == 0xE220A8397B1DCDAF


def test_hash_keeps_its_golden_values() -> None:
    # a change here changes the order and the views of every run
    index = torch.tensor([0, 1, 49_999])
    assert [bits % WORD for bits in hash64(VIEW, 0, 0, index).tolist()] == GOLDEN_BITS
    assert [reference_hash(VIEW, 0, 0, row) for row in index.tolist()] == GOLDEN_BITS
    assert permutation(0, 0, 10).tolist() == GOLDEN_ORDER


def test_tensors_broadcast() -> None:
    table = hash64(7, torch.arange(3)[:, None], torch.arange(4))
    assert table.shape == (3, 4)
    assert table[2, 3] == hash64(7, 2, 3)


def test_one_bit_of_any_counter_changes_half_of_the_bits() -> None:
    index = torch.arange(2_000)
    flips = [hash64(1, 0, index) ^ hash64(1, 0, index ^ (1 << bit)) for bit in range(16)]
    flips += [hash64(1, 0, index) ^ hash64(1, 1 << bit, index) for bit in range(16)]
    for changed in flips:
        bits = (changed[:, None] >> torch.arange(64)) & 1
        assert abs(bits.double().mean().item() - 0.5) < 0.01


def test_streams_are_distinct() -> None:
    assert len({VIEW, ORDER, SPLIT, SUBSET}) == 4
    index = torch.arange(10_000)
    drawn = torch.cat([hash64(stream, 0, 0, index) for stream in (VIEW, ORDER, SPLIT, SUBSET)])
    assert len(drawn.unique()) == len(drawn)


def test_uniform_int_reads_the_upper_bits_and_stays_in_range() -> None:
    extremes = torch.tensor([0, -1, 2**63 - 1, -(2**63)])
    assert uniform_int(extremes, 162).tolist() == [0, 161, 80, 81]
    assert uniform_int(extremes, 1).tolist() == [0, 0, 0, 0]
    assert uniform_int(torch.tensor([-1]), 2**31 - 1).item() == 2**31 - 2


@pytest.mark.parametrize("n", [1, 2, 128, 5_003])
def test_permutation_contains_each_index_once(n: int) -> None:
    assert permutation(3, 5, n).sort().values.equal(torch.arange(n))


def test_permutation_differs_by_epoch_and_by_seed() -> None:
    first = permutation(0, 0, 1_000)
    assert first.equal(permutation(0, 0, 1_000))
    for other in (permutation(0, 1, 1_000), permutation(1, 0, 1_000)):
        assert (first == other).float().mean() < 0.01


def test_global_random_state_is_not_changed() -> None:
    before = torch.get_rng_state()
    permutation(0, 0, 100)
    assert torch.get_rng_state().equal(before)


@pytest.mark.gpu
def test_cuda_computes_the_same_bits() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    index = torch.arange(100_000)
    assert counter_rng.hash64(1, -5, index.cuda()).cpu().equal(hash64(1, -5, index))
    assert permutation(1, 2, 50_000, "cuda").cpu().equal(permutation(1, 2, 50_000))
