"""Feature maps of ViTs and timm models: values, shapes, and no cost unless they are requested."""

from collections.abc import Callable
from typing import Any, cast

import pytest
import timm
import torch
from nightly import nightly_except
from torch import Tensor, nn

from raykd import models
from raykd.models import ImageModel, ImageSpec, Model
from raykd.models.four_stage_resnet import ResNet
from raykd.models.timm_model import Timm, feature_stages, wrap_timm_network
from raykd.models.vit_cifar import ViT
from raykd.outputs import Outputs

SMALL = ImageSpec(10, 16, (0.3, 0.4, 0.5), (0.2, 0.25, 0.3))
SIX = ViT(depth=6, width=24, heads=3, patch=4)
TOKEN = ViT(depth=6, width=24, heads=3, patch=4, distillation_token=True)
SWIN = Timm("swin_s3_tiny_224", input_size=32)

# Tokens, channels last, a stem that timm lists as a stage, 3 stages, other kinds of heads.
TIMM_MODELS = [
    *(
        Timm(f"test_{name}", input_size=32)
        for name in ("vit", "convnext", "efficientnet", "resnet", "mambaout", "byobnet")
    ),
    Timm("deit_tiny_distilled_patch16_224", input_size=32),
    Timm("resnetv2_18", input_size=32),
    Timm("levit_128s", input_size=64),
    SWIN,
]
ALL: list[Model] = [SIX, TOKEN, *TIMM_MODELS]


def pixels(num_images: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (num_images, 3, 16, 16), dtype=torch.uint8, generator=generator)


def built(model: Model, with_features: bool = True) -> ImageModel:
    network = models.build(model, SMALL, 0).eval()
    network.with_features = with_features
    return network


def outputs_of(network: nn.Module, modules: list[str], run: Callable[[], Outputs]) -> tuple[list[Tensor], Outputs]:
    """Return the outputs of `modules` during `run`, and the outputs of `run`."""
    caught: list[Tensor] = []

    def catch(_: nn.Module, inputs: Any, output: Tensor) -> None:
        caught.append(output)

    hooks = [network.get_submodule(name).register_forward_hook(catch) for name in modules]
    outputs = run()
    for hook in hooks:
        hook.remove()
    return caught, outputs


# Values


@pytest.mark.parametrize(
    ("depth", "blocks"),
    [
        (1, [1]),
        (2, [1, 2]),
        (3, [1, 2, 3]),
        (4, [1, 2, 3, 4]),
        (5, [2, 3, 4, 5]),
        (6, [2, 3, 5, 6]),
        (7, [2, 4, 6, 7]),
        (12, [3, 6, 9, 12]),
        (24, [6, 12, 18, 24]),
    ],
)
def test_stages_of_a_vit_are_the_quarters_of_its_depth(depth: int, blocks: list[int]) -> None:
    """`blocks` are counted from 1."""
    network = built(ViT(depth, 24, 3, 4)).network
    assert [stage + 1 for stage in feature_stages(network)] == blocks


@pytest.mark.parametrize("model", [SIX, TOKEN], ids=["class token", "both tokens"])
def test_features_of_a_vit_are_the_patch_tokens_after_blocks(model: ViT) -> None:
    network, prefix = built(model), 1 + model.distillation_token
    names = [f"blocks.{block - 1}" for block in (2, 3, 5, 6)]
    tokens, outputs = outputs_of(network.network, names, lambda: network(pixels()))
    assert len(outputs.features) == 4
    for features, block_tokens in zip(outputs.features, tokens, strict=True):
        assert features.shape == (3, 24, 4, 4)
        assert torch.equal(features, block_tokens[:, prefix:].mT.reshape(3, 24, 4, 4))


@pytest.mark.parametrize("model", [SIX, TOKEN], ids=["class token", "both tokens"])
def test_positions_in_a_vits_feature_maps_are_patches(model: ViT) -> None:
    """If blocks add nothing, changing the patch in row 0 and column 1 changes the feature maps only there."""
    network = built(model)
    for block in cast(nn.Sequential, network.network.get_submodule("blocks")):
        for last in ("attn.proj", "mlp.fc2"):
            for parameter in block.get_submodule(last).parameters():
                nn.init.zeros_(parameter)
    changed = pixels()
    changed[:, :, 0:4, 4:8] += 100
    for one, other in zip(network(pixels()).features, network(changed).features, strict=True):
        moved = (one != other).any(1)
        assert moved[:, 0, 1].all() and moved.sum() == len(moved)


@pytest.mark.parametrize("model", TIMM_MODELS, ids=lambda model: model.label)
def test_features_of_timm_networks_have_the_shapes_that_timm_lists(model: Timm) -> None:
    network = built(model)
    listed = cast(list[dict[str, Any]], network.network.feature_info)[-4:]
    features = network(pixels()).features
    assert [feature.shape[1] for feature in features] == [stage["num_chs"] for stage in listed][-len(features) :]
    assert [feature.shape[2] for feature in features] == [
        -(-model.input_size // stage["reduction"]) for stage in listed
    ]
    assert all(feature.shape[0] == 3 and feature.shape[2] == feature.shape[3] for feature in features)


def test_channels_last_features_are_transposed() -> None:
    network = built(SWIN)
    names = [f"layers.{stage}" for stage in range(4)]
    stages, outputs = outputs_of(network.network, names, lambda: network(pixels()))
    assert [tuple(feature.shape[1:]) for feature in outputs.features] == [
        (96, 8, 8),
        (192, 4, 4),
        (384, 2, 2),
        (768, 1, 1),
    ]
    assert all(torch.equal(a, b.permute(0, 3, 1, 2)) for a, b in zip(outputs.features, stages, strict=True))


def test_network_without_stages_in_timm_has_no_features_but_all_else() -> None:
    """For example an NFNet of timm 1.0.16."""
    network = timm.create_model("test_resnet", num_classes=10)
    del network.feature_info
    model = wrap_timm_network(network, SMALL).eval()
    without = model(pixels())
    model.with_features = True
    outputs = model(pixels())
    assert feature_stages(network) == [] and outputs.features == ()
    assert torch.equal(outputs.logits, without.logits)


# Cost


@pytest.mark.parametrize("model", ALL, ids=lambda model: model.label)
@pytest.mark.parametrize("training", nightly_except([True], [False, True]), ids=["evaluation", "training"])
def test_outputs_and_gradients_are_the_same_with_and_without_features(model: Model, training: bool) -> None:
    results = []
    for with_features in (False, True):
        network = built(model, with_features).train(training)
        torch.manual_seed(0)
        outputs = network(pixels())
        outputs.logits.logsumexp(1).sum().backward()
        gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
        results.append((outputs, gradients))
    (plain, plain_gradients), (full, full_gradients) = results
    assert plain.features == () and len(full.features) >= 3
    assert torch.equal(plain.logits, full.logits)
    assert plain.embedding is not None and full.embedding is not None
    assert torch.equal(plain.embedding, full.embedding)
    assert len(plain.heads) == len(full.heads)
    assert all(torch.equal(a, b) for a, b in zip(plain.heads, full.heads, strict=True))
    assert plain_gradients.keys() == full_gradients.keys()
    assert all(torch.equal(plain_gradients[name], full_gradients[name]) for name in plain_gradients)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_dropout_is_the_same_with_and_without_features(dropout: float) -> None:
    logits = []
    for with_features in (False, True):
        network = built(ViT(4, 24, 3, 4, dropout=dropout), with_features).train()
        torch.manual_seed(3)
        logits.append(network(pixels()).logits)
    assert torch.equal(*logits)


def test_one_pass_computes_logits_embedding_and_features() -> None:
    passes = []
    for model in (SIX, TOKEN, SWIN):
        network = built(model)
        network.network.get_submodule("patch_embed").register_forward_hook(lambda *_: passes.append(1))
        network(pixels())
    assert len(passes) == 3


@pytest.mark.parametrize("model", ALL, ids=lambda model: model.label)
def test_features_cost_nothing_unless_requested(model: Model) -> None:
    """timm's code that collects features is not run."""
    network = built(model, with_features=False)

    def refuse(*_: Any, **named: Any) -> None:
        raise AssertionError("requested features")

    network.network.forward_intermediates = refuse  # type: ignore[assignment]
    assert network(pixels()).features == ()
    network.with_features = True
    with pytest.raises(AssertionError, match="requested features"):
        network(pixels())


def test_a_resnet_always_returns_features() -> None:
    outputs = [built(ResNet((1, 1, 1, 1), 8), with_features)(pixels()) for with_features in (False, True)]
    assert [len(each.features) for each in outputs] == [4, 4]


# Memory layouts and compilation


@pytest.mark.parametrize(
    "model", nightly_except([SIX], [SIX, Timm("test_mambaout", input_size=32)]), ids=["vit", "mambaout"]
)
@pytest.mark.nightly
def test_features_depend_on_neither_layout_nor_compilation(model: Model) -> None:
    network = built(model)
    expected = network(pixels())
    with torch.no_grad():
        compiled = torch.compile(network, backend="aot_eager", fullgraph=True)(pixels())
        images = pixels().to(memory_format=torch.channels_last)
        channels_last = network.to(memory_format=torch.channels_last)(images)  # type: ignore[call-overload]
    for outputs in (compiled, channels_last):
        torch.testing.assert_close(outputs.logits, expected.logits, rtol=1e-4, atol=1e-5)
        for feature, other in zip(outputs.features, expected.features, strict=True):
            torch.testing.assert_close(feature, other, rtol=1e-4, atol=1e-4)
