"""Networks of torchvision by name: outputs, weights with a new head, the normalization of their training, refusals."""

from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn

from raykd import models
from raykd.errors import ConfigError
from raykd.models import ImageModel, ImageSpec
from raykd.models.torchvision_model import Torchvision
from raykd.models.weights import load_weights

IMAGES = ImageSpec(10, 64, (0.3, 0.4, 0.5), (0.2, 0.25, 0.3))


def pixels() -> Tensor:
    return torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def built(model: Torchvision) -> ImageModel:
    return models.build(model, IMAGES, seed=0).eval()


def test_a_name_finds_the_network_with_torchvisions_logits() -> None:
    model = models.find("torchvision:squeezenet1_1")
    assert model == Torchvision("squeezenet1_1") and model.label == "torchvision-squeezenet1_1"
    found = built(Torchvision("resnet18"))
    original = torchvision.models.resnet18(num_classes=10).eval()
    original.load_state_dict(found.network.state_dict())
    normalized = (pixels() / 255 - torch.tensor(IMAGES.mean).view(3, 1, 1)) / torch.tensor(IMAGES.std).view(3, 1, 1)
    assert torch.allclose(found(pixels()).logits, original(normalized), atol=1e-5)


def test_embedding_and_feature_maps_are_those_of_named_layers() -> None:
    model = built(Torchvision("resnet18", features=("layer1", "layer2", "layer3", "layer4")))
    model.request({"embedding", "features"})
    outputs = model(pixels())
    assert outputs.embedding is not None and outputs.embedding.shape == (2, 512)
    assert [tuple(maps.shape[1:]) for maps in outputs.features] == [(64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2)]
    assert torch.allclose(outputs.embedding, outputs.features[-1].mean((2, 3)), atol=1e-6)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_weights_of_imagenet_get_a_new_head_and_their_normalization(name: str, tmp_path: Path) -> None:
    torch.save(
        torchvision.models.get_model(name, weights=None).state_dict(), tmp_path / "imagenet.pth"
    )  # 1,000 classes
    model = Torchvision(name, weights=str(tmp_path / "imagenet.pth"))
    found = built(model)
    head = next(iter(found.heads())).weight.clone()  # type: ignore[operator,union-attr]
    load_weights(found.network, tmp_path / "imagenet.pth", new_head=True, heads=found.heads())
    assert torch.equal(next(iter(found.heads())).weight, head)  # type: ignore[arg-type]
    assert model.input_spec(IMAGES).mean == (0.485, 0.456, 0.406)
    assert Torchvision(name).input_spec(IMAGES) == IMAGES


def test_a_vision_transformer_is_built_for_the_size_that_it_sees() -> None:
    found = models.build(Torchvision("vit_b_32", input_size=32), IMAGES, seed=0)
    assert found.input_size == 32 and found.eval()(pixels()).logits.shape == (2, 10)


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_networks_with_auxiliary_heads_return_one_tensor_in_training(name: str) -> None:
    found = models.build(Torchvision(name, input_size=96), IMAGES, seed=0).train()
    assert isinstance(found(pixels()).logits, Tensor)
    assert not any("aux" in name for name, _ in found.network.named_parameters())


def test_unknown_names_are_refused_with_the_nearest_and_detection_networks_are_not_known() -> None:
    with pytest.raises(ConfigError, match=r"unknown torchvision model 'resnett18'; .*did you mean 'resnet18'\?"):
        models.find("torchvision:resnett18")
    with pytest.raises(ConfigError, match=r"'fasterrcnn_resnet50_fpn'; `.* models torchvision` lists the \d+ names"):
        models.find("torchvision:fasterrcnn_resnet50_fpn")


def test_a_network_that_is_too_deep_for_the_images_is_refused_with_the_size() -> None:
    with pytest.raises(ConfigError, match=r"model = torchvision-alexnet: its forward\(\) with an image of 8x8 pixels"):
        models.build(Torchvision("alexnet"), ImageSpec(10, 8, IMAGES.mean, IMAGES.std), seed=0)


def test_the_tag_of_a_name_selects_the_weights_and_their_normalization() -> None:
    tagged, default = (models.find(f"torchvision:{name}") for name in ("vit_b_16.IMAGENET1K_SWAG_E2E_V1", "vit_b_16"))
    assert isinstance(tagged, Torchvision) and (tagged.architecture, tagged.tag) == (
        "vit_b_16",
        "IMAGENET1K_SWAG_E2E_V1",
    )
    assert tagged.label == "torchvision-vit_b_16.IMAGENET1K_SWAG_E2E_V1"
    assert tagged.pretrained_file(Path("weights")) != default.pretrained_file(Path("weights"))
    assert built(Torchvision("squeezenet1_1.IMAGENET1K_V1")).network.state_dict().keys() == (
        built(Torchvision("squeezenet1_1")).network.state_dict().keys()
    )


@pytest.mark.parametrize("tag", ["IMAGENET1K_V3", "DEFAULTS", ""])
def test_an_unknown_tag_is_refused_with_the_known_ones(tag: str) -> None:
    with pytest.raises(ConfigError, match=r"name = 'resnet50\..*: .* it has IMAGENET1K_V1, IMAGENET1K_V2"):
        Torchvision(f"resnet50.{tag}")


@pytest.mark.parametrize(("tag", "weights"), [("", "DEFAULT"), (".IMAGENET1K_V1", "IMAGENET1K_V1")])
def test_prefetch_stores_the_weights_that_a_name_selects(
    tag: str, weights: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from dataclasses import replace

    from rich.console import Console
    from small_runs import experiment

    from raykd.cli.prefetch import fetch

    requested: list[object] = []

    def fake_get_model(name: str, weights: object = None, **options: object) -> nn.Module:
        requested.append((name, weights))
        return nn.Linear(2, 3)

    monkeypatch.setattr(torchvision.models, "get_model", fake_get_model)
    pretrained = replace(experiment().teacher, model=Torchvision(f"resnet18{tag}", weights="pretrained"))
    fetch([experiment(teacher=pretrained)], tmp_path, tmp_path, Console())
    assert requested == [("resnet18", weights)] and (tmp_path / f"torchvision-resnet18{tag}.safetensors").is_file()
