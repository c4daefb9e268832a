"""Networks: sizes, costs, shapes of outputs, and compatibility with weights of torchvision and timm."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from raykd import models
from raykd.errors import ConfigError
from raykd.models import ImageModel, ImageSpec, Model
from raykd.models.four_stage_resnet import ResNet
from raykd.models.timm_model import Timm
from raykd.models.vit_cifar import ViT
from raykd.models.weights import load_weights

CIFAR10 = ImageSpec(10, 32, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
SMALL = ImageSpec(10, 16, (0.3, 0.4, 0.5), (0.2, 0.25, 0.3))

# The smallest timm model with each kind of head.
TIMM = ("test_vit", "test_convnext", "test_efficientnet", "test_resnet", "test_mambaout", "test_nfnet")


def pixels(num_images: int = 2, size: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (num_images, 3, size, size), dtype=torch.uint8, generator=generator)


def built(model: Model | str, images: ImageSpec = SMALL, seed: int = 0) -> ImageModel:
    return models.build(models.find(model), images, seed).eval()


@pytest.mark.parametrize(("name", "millions"), [("resnet18", 11.17), ("resnet8", 4.90), ("vit6", 2.69)], ids=str)
def test_number_of_parameters(name: str, millions: float) -> None:
    model = built(name, CIFAR10)
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 2) == millions


@pytest.mark.parametrize(("name", "millions"), [("resnet18", 555), ("resnet8", 253)])
def test_number_of_multiply_adds(name: str, millions: int) -> None:
    with torch.device("meta"):
        network, image = built(name, CIFAR10).network, torch.empty(1, 3, 32, 32)
    with FlopCounterMode(display=False) as counter:
        network(image)
    assert counter.get_total_flops() // 2 // 1_000_000 == millions  # torch counts a multiply-add as two


def test_shapes_of_a_resnets_outputs() -> None:
    outputs = built(ResNet((2, 1, 1, 1), width=8), CIFAR10)(pixels(3))
    assert outputs.logits.shape == (3, 10)
    assert outputs.embedding is not None and outputs.embedding.shape == (3, 64)
    assert [tuple(stage.shape) for stage in outputs.features] == [
        (3, 8, 32, 32),
        (3, 16, 16, 16),
        (3, 32, 8, 8),
        (3, 64, 4, 4),
    ]


def test_shapes_of_a_vits_outputs() -> None:
    outputs = built(ViT(depth=1, width=24, heads=3, patch=4))(pixels(3, 16))
    assert outputs.logits.shape == (3, 10)
    assert outputs.embedding is not None and outputs.embedding.shape == (3, 24)


@pytest.mark.parametrize(
    "model", [ResNet((1, 1, 1, 1), 8), ViT(1, 24, 3, 4), *(Timm(name, input_size=32) for name in TIMM)], ids=str
)
def test_logits_are_the_head_on_the_embedding(model: Model) -> None:
    built_model = built(model)
    outputs = built_model(pixels(size=16))
    head = built_model.network.get_submodule("fc") if isinstance(model, ResNet) else None
    head = head or built_model.network.get_classifier()  # pyright: ignore[reportCallIssue]
    assert outputs.embedding is not None and isinstance(head, nn.Linear)
    torch.testing.assert_close(outputs.logits, head(outputs.embedding))


@pytest.mark.parametrize("model", [ResNet((1, 1, 1, 1), 8), ViT(1, 24, 3, 4)], ids=["resnet", "vit"])
def test_outputs_do_not_depend_on_other_images(model: Model) -> None:
    network, images = built(model), pixels(4, 16)
    torch.testing.assert_close(network(images).logits[1:2], network(images[1:2]).logits, rtol=1e-4, atol=1e-5)


def test_pixels_are_normalized_by_the_statistics_of_the_data() -> None:
    seen = []
    model = built(ResNet((1, 1, 1, 1), 8))
    model.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    images = pixels(size=16)
    model(images)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (SMALL.mean, SMALL.std))
    torch.testing.assert_close(seen[0], (images.float() / 255 - mean) / std)


def torchvision_resnet18() -> nn.Module:
    network = torchvision.models.resnet18(num_classes=10)
    network.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    network.maxpool = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
    return network


def timm_resnet18() -> nn.Module:
    network = timm.create_model("resnet18", num_classes=10)
    network.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    network.maxpool = nn.Identity()
    return network


@pytest.mark.parametrize("make", [torchvision_resnet18, timm_resnet18])
def test_resnet18_of_other_libraries_loads_with_equal_logits(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        theirs = make()
        for name, buffer in theirs.named_buffers():  # statistics of a network that was trained
            if buffer.is_floating_point():
                buffer.normal_().abs_().add_(0.5 if name.endswith("var") else 0)
    save_file(theirs.state_dict(), tmp_path / "theirs.safetensors")
    ours = built("resnet18", CIFAR10).network
    load_weights(ours, tmp_path / "theirs.safetensors")
    image = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    expected = theirs.double().eval()(image)
    torch.testing.assert_close(ours.double().eval()(image).logits, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", TIMM)
def test_logits_of_timm_models_equal_timms(name: str) -> None:
    model = built(f"timm:{name}", images=replace(SMALL, size=160))
    image = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        outputs, expected = model._run_network(model.network, image), model.network(image)
    torch.testing.assert_close(outputs.logits, expected)
    assert outputs.embedding is not None and outputs.embedding.shape[0] == 2 and outputs.embedding.dim() == 2


@pytest.mark.parametrize(
    "name",
    ["deit_tiny_distilled_patch16_224", "resnetv2_18", "levit_128s", "dla34", "crossvit_9_240", "swiftformer_xs"],
)
def test_timm_models_with_other_heads_return_outputs(name: str) -> None:
    """Two heads, convolutional heads, a list of heads: only shapes are checked, on the meta device."""
    with torch.device("meta"), torch.no_grad():
        pretrained = timm.get_pretrained_cfg(name)
        assert pretrained is not None
        side = pretrained.input_size[-1]
        outputs = built(f"timm:{name}", replace(SMALL, size=side))(torch.empty(2, 3, side, side))
    assert outputs.logits.shape == (2, 10)
    assert outputs.embedding is not None and outputs.embedding.dim() == 2


def test_timm_model_uses_the_datas_size_or_resizes_to_its_input_size() -> None:
    seen = []
    for size, model in (
        (16, Timm("test_resnet")),
        (32, Timm("test_resnet", input_size=32)),
        (32, Timm("test_vit", input_size=32)),
    ):
        network = built(model)
        network.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[-1]))
        hook = network.network.get_submodule("conv1" if "resnet" in model.name else "patch_embed")
        hook.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[-1]))
        network(pixels(size=16))
        assert seen.pop() == size


def test_resized_views_keep_teacher_and_student_on_the_same_pixels() -> None:
    """A network with another input size receives the same view, enlarged: a constant image stays constant."""
    model = built(Timm("test_vit", input_size=32))
    seen = []
    model.network.get_submodule("patch_embed").register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(torch.full((1, 3, 16, 16), 128, dtype=torch.uint8))
    expected = (128 / 255 - torch.tensor(SMALL.mean)) / torch.tensor(SMALL.std)
    torch.testing.assert_close(seen[0], expected.view(1, 3, 1, 1).expand(1, 3, 32, 32))


def test_pretrained_networks_use_timms_statistics_and_others_the_datas() -> None:
    scratch, loaded = built(Timm("test_vit", input_size=32)), built(Timm("test_vit", input_size=32, weights="file"))
    assert scratch.mean.flatten().tolist() == pytest.approx([255 * value for value in SMALL.mean])
    pretrained = timm.get_pretrained_cfg("test_vit")
    assert pretrained is not None
    assert loaded.mean.flatten().tolist() == pytest.approx([255 * value for value in pretrained.mean])
    assert loaded.std.flatten().tolist() == pytest.approx([255 * value for value in pretrained.std])


@pytest.mark.parametrize("model", [ResNet((1, 1, 1, 1), 8), ViT(1, 24, 3, 4), Timm("test_vit", input_size=32)], ids=str)
def test_weights_depend_on_the_seed_alone(model: Model) -> None:
    torch.manual_seed(1)
    first = built(model, seed=3).network.state_dict()
    torch.rand(7)
    state = torch.random.get_rng_state()
    second, other = built(model, seed=3).network.state_dict(), built(model, seed=4).network.state_dict()
    assert torch.equal(state, torch.random.get_rng_state()), "building a model moved the global generator"
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize(
    ("model", "label"),
    [
        ("resnet18", "resnet18"),
        ("resnet8", "resnet8"),
        (ResNet((3, 4, 6, 3), 16), "resnet34-w16"),
        ("vit6", "vit6"),
        (ViT(depth=2, width=24, heads=2, patch=2), "vit2-w24-p2"),
        ("timm:vit_tiny_patch16_224.augreg_in21k", "vit_tiny_patch16_224-augreg_in21k"),
    ],
)
def test_labels_are_short_names_for_folders(model: Model | str, label: str) -> None:
    assert models.find(model).label == label


def test_sizes_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ConfigError, match="patch = 5 in ViT: must divide the images' side of 16 pixels"):
        built(ViT(patch=5))


def test_timm_model_that_cannot_be_built_at_a_size_is_refused() -> None:
    with pytest.raises(ConfigError, match="timm model 'test_vit_relpos' cannot be built for 10x10") as caught:
        built(Timm("test_vit_relpos", input_size=10))
    assert "\n" not in str(caught.value)
