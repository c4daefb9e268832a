"""Tests of convolutions on images smaller than their kernels, in bfloat16 on a CPU."""

from typing import Any

import pytest
import torch
from small_runs import CPU, digits, recipe, run_of, teacher_of, train
from torch import Tensor, nn

from raykd.errors import RunDiverged
from raykd.models.timm_model import Timm
from raykd.store.run_folder import RunFolder
from raykd.training import loop
from raykd.training.compute import choose_compute
from raykd.training.kernel_crop import crop_kernels
from raykd.training.training_step import make_train_state

# (image, arguments of Conv2d): central weights, both sides, one side, dilation, text, none
CASES: list[tuple[tuple[int, int], dict[str, Any]]] = [
    ((1, 1), {"kernel_size": 3, "stride": 2, "padding": 1}),
    ((1, 1), {"kernel_size": 7, "stride": 1, "padding": 3, "groups": 8}),
    ((2, 2), {"kernel_size": 7, "stride": 1, "padding": 3}),
    ((2, 2), {"kernel_size": 3, "stride": 2, "padding": 1}),
    ((1, 4), {"kernel_size": (5, 3), "stride": (2, 1), "padding": (2, 0)}),
    ((3, 1), {"kernel_size": 3, "padding": 2, "dilation": 2}),
    ((2, 1), {"kernel_size": 5, "padding": "same"}),
    ((1, 1), {"kernel_size": 3, "padding": 3, "stride": 2}),
    ((8, 8), {"kernel_size": 3, "padding": 1}),
]


def gradients(convolution: nn.Conv2d, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the output, and the gradients of the weights and the images."""
    images = images.clone().requires_grad_()
    convolution.zero_grad()
    output = convolution(images)
    output.float().square().sum().backward()
    assert convolution.weight.grad is not None and images.grad is not None
    return output, convolution.weight.grad.clone(), images.grad


@pytest.mark.parametrize(("size", "arguments"), CASES)
def test_cropped_kernels_have_the_outputs_and_gradients_of_whole_ones(
    size: tuple[int, int], arguments: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    convolution, images = nn.Conv2d(8, 8, **arguments).double(), torch.randn(3, 8, *size).double()
    whole = gradients(convolution, images)
    crop_kernels(convolution)
    for cropped, expected in zip(gradients(convolution, images), whole, strict=True):
        torch.testing.assert_close(cropped, expected, rtol=1e-12, atol=1e-12)


def test_weights_that_meet_only_padding_have_a_gradient_of_zero_in_bfloat16() -> None:
    """oneDNN does not write these values; memory that was freed is filled with NaN here, so that they show."""
    network, images = nn.Sequential(nn.Conv2d(48, 48, 3, stride=2, padding=1)), torch.randn(50, 48, 1, 1)
    crop_kernels(network)
    freed = [torch.full((1 << power,), torch.nan) for power in range(8, 20) for _ in range(8)]
    del freed
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = network(images)
    output.float().square().sum().backward()
    gradient = network[0].weight.grad
    assert gradient[:, :, 1, 1].abs().min() > 0
    gradient[:, :, 1, 1] = 0
    assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize(("precision", "is_cropped"), [("bf16", True), ("fp32", False)])
def test_students_on_a_cpu_are_cropped_in_bfloat16_only(precision: str, is_cropped: bool) -> None:
    run = run_of("distilled", student=recipe(model=Timm("test_resnet"), precision=precision))
    student = make_train_state(run, digits(), choose_compute(CPU, precision), teacher_of(run)).objective.student
    kinds = {type(part) is nn.Conv2d for part in student.modules() if isinstance(part, nn.Conv2d)}
    assert kinds == {not is_cropped}


def test_a_run_with_invalid_weights_that_no_output_depends_on_is_not_kept(
    run_folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The validation loss stays finite, but a file with NaN could be neither evaluated nor exported."""
    original = loop.evaluate

    def evaluate(model: Any, *arguments: Any) -> Any:
        result = original(model, *arguments)
        next(model.parameters()).data[0] = torch.nan
        return result

    monkeypatch.setattr(loop, "evaluate", evaluate)
    with pytest.raises(RunDiverged, match="weights became NaN or infinite after epoch 0; lower the learning rate"):
        train(run_of("baseline"), run_folder)
    assert run_folder.status() == "failed" and not run_folder.best.exists()
