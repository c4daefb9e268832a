"""Feature maps before each stage's last ReLU, which a network of raykd returns on request."""

import pytest
import torch
import torch.nn.functional as F
from nightly import nightly_except
from torch import Tensor, nn

from raykd import models
from raykd.models import ImageModel, ImageSpec, Model
from raykd.models.cifar_resnet50 import BottleneckResNet
from raykd.models.four_stage_resnet import ResNet
from raykd.models.mobilenet_cifar import MobileNetV2
from raykd.models.shufflenet_cifar import ShuffleNetV1, ShuffleNetV2
from raykd.models.three_stage_resnet import CifarResNet
from raykd.models.timm_model import Timm
from raykd.models.torchvision_model import Torchvision
from raykd.models.vgg_cifar import VGG
from raykd.models.vit_cifar import ViT
from raykd.models.wide_resnet import WideResNet

IMAGES = ImageSpec(10, 32, (0.3, 0.4, 0.5), (0.2, 0.25, 0.3))
NEEDS = {"embedding", "features"}
WITH_RELU = (ResNet((2, 1, 1, 2), 8), CifarResNet(14, 8), BottleneckResNet((1, 2, 1, 1), 8), VGG(8))
WITHOUT = (
    MobileNetV2(),
    ShuffleNetV1(),
    ShuffleNetV2(),
    ViT(4, 24, 3, 4),
    Timm("test_resnet", input_size=32),
    Torchvision("resnet18", features=("layer1", "layer2")),
)


def pixels() -> Tensor:
    return torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def built(model: Model) -> ImageModel:
    """Return the network in evaluation mode; its batch norms have statistics that differ from their initial ones."""
    network = models.build(model, IMAGES, 0).eval()
    generator = torch.Generator().manual_seed(1)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean is not None
            layer.running_mean.normal_(std=0.1, generator=generator)
            layer.bias.data.normal_(std=0.1, generator=generator)
    return network


@pytest.mark.parametrize("model", WITH_RELU, ids=lambda model: model.label)
def test_the_relu_of_preactivations_is_the_usual_feature_map(model: Model) -> None:
    network = built(model)
    network.request(NEEDS)
    usual = network(pixels())
    network.request(NEEDS, preactivations=True)
    before = network(pixels())
    assert len(before.features) == len(usual.features) > 2
    for after_relu, preactivation in zip(usual.features, before.features, strict=True):
        assert (preactivation < 0).any() and torch.equal(F.relu(preactivation), after_relu)
    assert torch.equal(before.logits, usual.logits)
    assert before.embedding is not None and usual.embedding is not None
    assert torch.equal(before.embedding, usual.embedding)
    network.request(NEEDS)
    assert all(map(torch.equal, network(pixels()).features, usual.features)), "a later request replaces an earlier one"


def test_preactivations_of_a_wide_resnet_are_those_of_the_relus_after_its_stages() -> None:
    """ReviewKD's authors read the batch norm that follows a stage, since a wide ResNet's stages end in a sum."""
    network = built(WideResNet(10, 2))
    network.request(NEEDS)
    usual = network(pixels())
    network.request(NEEDS, preactivations=True)
    before = network(pixels())
    norms = [network.network.get_submodule(name) for name in ("block2.layer.0.bn1", "block3.layer.0.bn1", "bn1")]
    for norm, stage, preactivation in zip(norms, usual.features, before.features, strict=True):
        assert torch.equal(norm(stage), preactivation)
    assert before.embedding is not None
    assert torch.equal(F.relu(before.features[-1]).mean((2, 3)), before.embedding)
    assert torch.equal(before.logits, usual.logits)


@pytest.mark.parametrize("model", nightly_except(WITHOUT[:4], WITHOUT), ids=lambda model: model.label)
def test_other_networks_return_their_usual_feature_maps(model: Model) -> None:
    network = built(model)
    network.request(NEEDS)
    usual = network(pixels())
    network.request(NEEDS, preactivations=True)
    assert all(map(torch.equal, network(pixels()).features, usual.features)) and usual.features


def test_preactivations_alone_request_no_feature_maps() -> None:
    network = built(ViT(4, 24, 3, 4))
    network.request({"logits"}, preactivations=True)
    assert network(pixels()).features == ()
