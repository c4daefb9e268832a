"""ViTs with a distillation token: two heads, whose mean is the logits."""

import pytest
import timm
import torch
from timm.models.deit import VisionTransformerDistilled
from torch import Tensor

from raykd import models
from raykd.models import ImageModel, ImageSpec, Model
from raykd.models.four_stage_resnet import ResNet
from raykd.models.timm_model import Timm
from raykd.models.vit_cifar import ViT

SMALL = ImageSpec(10, 16, (0.3, 0.4, 0.5), (0.2, 0.25, 0.3))
TOKEN = ViT(depth=2, width=24, heads=3, patch=4, distillation_token=True)


def pixels() -> Tensor:
    return torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def built(model: Model) -> ImageModel:
    return models.build(model, SMALL, 0).eval()


@pytest.mark.parametrize("model", [TOKEN, Timm("deit_tiny_distilled_patch16_224", input_size=32)], ids=["vit", "deit"])
def test_logits_are_the_mean_of_both_heads_as_in_timm(model: Model) -> None:
    network = built(model)
    with torch.no_grad():
        outputs = network(pixels())
        side = network.input_size or 16
        normalized = torch.nn.functional.interpolate(
            (pixels() - network.mean) / network.std, (side, side), mode="bicubic"
        )
        expected = network.network(normalized)
    class_head, distillation_head = outputs.heads
    assert class_head.shape == distillation_head.shape == outputs.logits.shape == (3, 10)
    assert not torch.allclose(class_head, distillation_head)
    assert torch.equal(outputs.logits, (class_head + distillation_head) / 2)
    torch.testing.assert_close(outputs.logits, expected)


def test_heads_are_the_same_in_training_and_in_evaluation() -> None:
    network = built(TOKEN)
    evaluated = network(pixels())
    trained = network.train()(pixels())
    assert torch.equal(evaluated.logits, trained.logits) and torch.equal(evaluated.heads[1], trained.heads[1])


def test_token_adds_a_token_a_position_and_a_head() -> None:
    sizes = [sum(p.numel() for p in built(model).parameters()) for model in (TOKEN, ViT(2, 24, 3, 4))]
    assert sizes[0] - sizes[1] == 24 + 24 + 24 * 10 + 10


def test_dropout_is_applied_before_both_heads() -> None:
    network = built(ViT(depth=1, width=24, heads=3, patch=4, dropout=0.5, distillation_token=True)).train()
    one, other = network(pixels()), network(pixels())
    assert all(not torch.equal(a, b) for a, b in zip(one.heads, other.heads, strict=True))
    assert torch.equal(network.eval()(pixels()).logits, network(pixels()).logits)


@pytest.mark.parametrize("model", [ViT(2, 24, 3, 4), ResNet((1, 1, 1, 1), 8), Timm("test_vit", input_size=32)], ids=str)
def test_other_models_have_no_heads(model: Model) -> None:
    assert built(model)(pixels()).heads == () and not model.has_distillation_token


def test_label_includes_the_token() -> None:
    assert TOKEN.label == "vit2-w24-token" and ViT(distillation_token=True).label == "vit6-token"


@pytest.mark.nightly
def test_timm_models_with_a_token_are_recognized_by_name() -> None:
    """Other distilled networks of timm have two heads on one embedding, or tokens of another kind."""
    with torch.device("meta"):
        for name in timm.list_models(["*deit*", "*distilled*"]):
            if "deit3" in name and "tiny" not in name and "small" not in name:
                continue  # of the same class as the small ones, and hundreds of MB of modules
            is_known = Timm(name).has_distillation_token
            assert is_known == isinstance(timm.create_model(name), VisionTransformerDistilled), name
