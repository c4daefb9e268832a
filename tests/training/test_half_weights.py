"""Weights cast to 16 bits together give the gradients of autocast, which casts them one by one."""

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from raykd.training.half_weights import HalfWeights


class _Network(nn.Module):
    """A convolution, a frozen layer, two layers with one weight, one called twice, one unused, one normed."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, 3)
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.second.weight = self.first.weight
        self.twice = nn.Linear(8, 8)
        self.frozen = nn.Linear(8, 8).requires_grad_(False)
        self.normed = nn.utils.weight_norm(nn.Linear(8, 8))
        self.unused = nn.Linear(8, 8)

    def forward(self, images: Tensor) -> Tensor:
        embedding = self.convolution(images).relu().mean((2, 3))
        for layer in (self.first, self.second, self.twice, self.twice, self.normed, self.frozen):
            embedding = layer(embedding).relu()
        return embedding


class _Around(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.student = _Network()

    def forward(self, images: Tensor) -> Tensor:
        return self.student(images)


@pytest.mark.filterwarnings("ignore:.*weight_norm")
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_gradients_are_those_of_autocast_and_none_for_unused_weights(half: torch.dtype) -> None:
    torch.manual_seed(0)
    module, images = _Around(), torch.randn(4, 3, 8, 8)
    halves, gradients = HalfWeights(module.student, "student", half), []
    for casts_together in (False, True):
        module.zero_grad(set_to_none=True)
        with torch.autocast("cpu", half):
            output = functional_call(module, halves.cast(), images) if casts_together else module(images)
        output.float().square().sum().backward()
        gradients.append({name: weight.grad for name, weight in module.named_parameters()})
    one_by_one, together = gradients
    assert {name for name, gradient in together.items() if gradient is None} == {
        "student.frozen.weight",
        "student.frozen.bias",
        "student.unused.weight",
        "student.unused.bias",
    }
    for name, gradient in one_by_one.items():
        assert gradient is together[name] is None or torch.equal(gradient, together[name])


def test_a_network_without_such_layers_has_nothing_to_cast() -> None:
    assert HalfWeights(nn.BatchNorm2d(3), "student", torch.bfloat16).cast() == {}
