"""Memory of the losses: their tensors grow with the square of the batch or channels, public code's with the cube."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from raykd.methods import CRD
from raykd.methods.nst import nst_loss
from raykd.methods.pkt import pkt_loss
from raykd.methods.rkd import CHUNK_SIZES, rkd_angle_loss, rkd_distance_loss
from raykd.methods.sp import similarity_preserving_loss
from raykd.outputs import Outputs, Targets


class Largest(TorchDispatchMode):
    """Record the size of the largest tensor that is computed, in the backward pass too. Views have no size."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.numel = max(self.numel, leaf.untyped_storage().nbytes() // leaf.element_size())
        return result


def largest(loss: Callable[[Tensor], Tensor], student: Tensor) -> tuple[int, int]:
    """Return the number of elements of the largest tensor, and of those saved for the backward pass."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes() // tensor.element_size()
        return tensor

    student.requires_grad_()
    with Largest() as mode:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            value = loss(student)
        value.backward()
    return mode.numel, sum(kept.values())


BATCH, WIDTH = 96, 24


@pytest.mark.parametrize("loss", [rkd_angle_loss, rkd_distance_loss, pkt_loss])
def test_relations_hold_no_cube_of_the_batch(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    student, teacher = (torch.randn(BATCH, WIDTH) for _ in range(2))
    most, kept = largest(lambda s: loss(s, teacher), student)
    assert most <= CHUNK_SIZES["cpu"] * BATCH * BATCH < BATCH**3 / 10
    assert kept <= 8 * BATCH * BATCH


@pytest.mark.parametrize(("channels", "side"), [(64, 4), (16, 12)])
def test_nst_holds_the_smaller_of_channels_and_places_squared(channels: int, side: int) -> None:
    student, teacher = (torch.randn(8, channels, side, side) for _ in range(2))
    most, _ = largest(lambda s: nst_loss(s, teacher), student)
    assert most <= 8 * max(min(channels, side**2) ** 2, channels * side**2) < 8 * channels**2 * side**2 / 10


def test_similarities_hold_the_batch_squared() -> None:
    student, teacher = torch.randn(BATCH, 3, 4, 4), torch.randn(BATCH, 5, 8, 8)
    most, kept = largest(lambda s: similarity_preserving_loss(s, teacher), student)
    assert most <= BATCH * max(BATCH, 5 * 64) and kept <= 8 * BATCH * BATCH


def test_crd_gathers_no_vectors() -> None:
    """Public code holds [B, negatives, dimensions] twice: a gigabyte each at the defaults."""
    images = Targets(torch.arange(500) % 10, torch.arange(500))
    outputs = Outputs(torch.randn(32, 10), torch.randn(32, 16))
    method = CRD(negatives=1_000, dimensions=64)
    adapter = method.adapter(outputs, outputs, images)
    targets = Targets(images.labels[:32], images.index[:32])
    assert outputs.embedding is not None
    teacher = outputs.embedding
    most, _ = largest(lambda s: adapter(s, teacher, targets), torch.randn(32, 16))
    assert most <= max(2 * 32 * 1_001, 2 * 500 * 64) < 32 * 1_000 * 64 / 10
