"""Tests of heads in float32: for evaluation and teachers, while autocast applies to the rest of the network."""

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from small_runs import CPU, digits, recipe, run_of, train
from torch import Tensor, nn

from raykd import models
from raykd.data.types import Split
from raykd.models import ImageModel, ImageSpec, Model
from raykd.models.four_stage_resnet import ResNet
from raykd.models.submodules import HookedModel, Submodules
from raykd.models.timm_model import Timm
from raykd.models.vit_cifar import ViT
from raykd.store.run_folder import RunFolder
from raykd.training.compute import choose_compute
from raykd.training.evaluate import evaluate
from raykd.training.float32_head import float32_heads, keep_head_in_float32
from raykd.training.metrics import compute_metrics
from raykd.training.model_file import images_of
from raykd.training.teacher.load import load_live_teacher
from raykd.training.teacher.sources import MeanLogits

BF16 = choose_compute(CPU, "bf16")
SMALL = ResNet((1, 1, 1, 1), 8)
IMAGES = ImageSpec(10, 32, (0.5,) * 3, (0.5,) * 3)
SHOWN = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def near_tie() -> ImageModel:
    """Return a plain network with two classes whose logits are 10 and 10.01, and the same 10 in bfloat16."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.Linear(4, 2))
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    network[2].bias.data = torch.tensor([10.0, 10.01])
    return HookedModel(network, ImageSpec(2, 2, (0,) * 3, (1,) * 3), Submodules(head="2"))


def test_nearly_equal_logits_do_not_tie() -> None:
    split = Split(torch.zeros(8, 3, 2, 2, dtype=torch.uint8), torch.ones(8, dtype=torch.int64))
    model = near_tie()
    with torch.no_grad(), BF16.autocast():
        assert model(split.images).logits.argmax(1).tolist() == 8 * [0], "in bfloat16 they are"
    assert evaluate(model, split, BF16).top1 == 100
    found = compute_metrics(model, split, BF16, 2, near_tie())
    assert (found.top1, found.agreement, found.teacher_kl) == (100, 100, 0)
    assert found.nll == pytest.approx(torch.tensor(-0.01).exp().log1p().item(), rel=1e-4)


def heads_and_embeddings(model: ImageModel) -> list[tuple[nn.Module, Tensor]]:
    """What each head receives, as it runs under autocast."""
    found: list[tuple[nn.Module, Tensor]] = []
    classifier = model.network.get_classifier()  # type: ignore[operator]
    heads = classifier if isinstance(classifier, tuple) else (classifier,)
    hooks = [head.register_forward_pre_hook(lambda head, given: found.append((head, given[0]))) for head in heads]
    model(SHOWN)
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize(
    "model",
    [SMALL, ViT(2, 64, 2, 8), ViT(2, 64, 2, 8, distillation_token=True), Timm("test_resnet"), Timm("test_convnext")],
    ids=lambda model: model.label,
)
@torch.no_grad()
def test_every_kind_of_network_has_its_head_in_float32_inside_and_as_before_afterwards(model: Model) -> None:
    made = models.build(model, IMAGES, 0).eval()
    with BF16.autocast():
        rounded = made(SHOWN).logits
        received = heads_and_embeddings(made)
        with float32_heads(made):
            exact = made(SHOWN).logits
        again = made(SHOWN).logits
    assert rounded.dtype == torch.bfloat16 and exact.dtype == torch.float32
    layer_norm = {torch.float32} if isinstance(model, ViT) or "convnext" in model.label else {torch.bfloat16}
    assert {given.dtype for _, given in received} == layer_norm, "autocast decides about all that comes before the head"
    by_hand = [F.linear(given.float(), head.weight, head.bias) for head, given in received]  # type: ignore[arg-type]
    torch.testing.assert_close(exact, torch.stack(by_hand).mean(0), rtol=1e-6, atol=1e-6)
    assert torch.equal(again, rounded) and not any("forward" in vars(head) for head, _ in received)


@torch.no_grad()
def test_without_autocast_no_bit_changes() -> None:
    made = models.build(SMALL, images_of(digits()), 0).eval()
    before = made(digits().test.images).logits
    with float32_heads(made):
        assert torch.equal(made(digits().test.images).logits, before)
    keep_head_in_float32(made)
    assert torch.equal(made(digits().test.images).logits, before)


@torch.no_grad()
def test_a_copy_of_a_network_whose_head_is_kept_in_float32_computes_with_its_own_weights() -> None:
    made = models.build(SMALL, images_of(digits()), 0).eval()
    keep_head_in_float32(made)
    copy = deepcopy(made)
    nn.init.zeros_(copy.network.fc.weight)  # type: ignore[arg-type, union-attr]
    nn.init.ones_(copy.network.fc.bias)  # type: ignore[arg-type, union-attr]
    with BF16.autocast():
        assert torch.equal(copy(SHOWN).logits, torch.ones(4, 10))
        assert not torch.equal(made(SHOWN).logits, torch.ones(4, 10))


def test_an_error_inside_restores_the_head() -> None:
    made = models.build(SMALL, images_of(digits()), 0)
    with pytest.raises(ZeroDivisionError), float32_heads(made):
        raise ZeroDivisionError
    assert "forward" not in vars(made.network.fc)  # type: ignore[arg-type]


def test_teachers_that_are_live_or_fill_a_cache_have_their_heads_in_float32(run_folder: RunFolder) -> None:
    train(run_of("teacher", teacher=recipe(epochs=1)), run_folder)
    one, two = load_live_teacher([run_folder], CPU).model, load_live_teacher([run_folder, run_folder], CPU).model
    assert isinstance(two, MeanLogits)
    with torch.no_grad(), BF16.autocast():
        logits = one(digits().test.images).logits
        mean = two(digits().test.images).logits
    assert logits.dtype == torch.float32 and torch.equal(mean, logits)
    assert not torch.equal(logits, logits.bfloat16().float()), "they are not rounded to bfloat16"
