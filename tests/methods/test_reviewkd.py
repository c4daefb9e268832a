"""ReviewKD against the paper's formulas in loops: fusion from deep to shallow, and the loss over pooled sizes."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small_runs import CPU, digits, recipe, run_of, teacher_of
from torch import nn

from raykd.data.loader import Batch
from raykd.methods import AttentionTransfer, Method, ReviewKD
from raykd.methods.reviewkd import Fusion, Review, hcl_loss
from raykd.models.four_stage_resnet import ResNet
from raykd.outputs import Outputs, Targets
from raykd.training.compute import choose_compute
from raykd.training.training_step import TrainState, make_train_state

Array = NDArray[np.float64]
GENERATOR = torch.Generator().manual_seed(0)
TARGETS = Targets(torch.arange(4) % 3, torch.arange(4))


def outputs(width: int, *shapes: tuple[int, int, int]) -> Outputs:
    """Return random outputs for 4 images in float64: logits, an embedding, and feature maps of `shapes`."""

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(4, *shape, generator=GENERATOR, dtype=torch.float64)

    return Outputs(drawn(3), drawn(width), tuple(drawn(*shape) for shape in shapes))


def convolution(x: Array, layer: nn.Conv2d) -> Array:
    """Return the convolution of [B, K, H, W] with zeros around the map, by its definition."""
    weight = layer.weight.detach().double().numpy()
    pad = layer.kernel_size[0] // 2
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    result = np.zeros((len(x), len(weight), *x.shape[2:]))
    for b, k, h, w in np.ndindex(*result.shape):
        result[b, k, h, w] = np.sum(weight[k] * padded[b, :, h : h + 2 * pad + 1, w : w + 2 * pad + 1])
    bias = 0 if layer.bias is None else layer.bias.detach().double().numpy()[:, None, None]
    return result + bias


def normalized(x: Array) -> Array:
    """Return batch norm in training mode, with its initial weight and bias."""
    for k in range(x.shape[1]):
        channel = x[:, k]
        x[:, k] = (channel - channel.mean()) / np.sqrt(channel.var() + 1e-5)
    return x


def nearest(x: Array, size: tuple[int, int]) -> Array:
    """Return [B, K, *size], of which each position has the value at the same fraction of the height and width."""
    result = np.zeros((*x.shape[:2], *size))
    for h, w in np.ndindex(*size):
        result[:, :, h, w] = x[:, :, h * x.shape[2] // size[0], w * x.shape[3] // size[1]]
    return result


def pooled(x: Array, size: int) -> Array:
    """Return the means over size x size regions, which overlap by one row or column if the sides are no multiples."""
    result = np.zeros((*x.shape[:2], size, size))
    for i, j in np.ndindex(size, size):
        rows, columns = (
            slice(at * side // size, -(-(at + 1) * side // size)) for at, side in ((i, x.shape[2]), (j, x.shape[3]))
        )
        result[:, :, i, j] = x[:, :, rows, columns].mean((2, 3))
    return result


def reference_hcl(student: Array, teacher: Array) -> float:
    sums, weights = [np.mean((student - teacher) ** 2)], [1.0]
    for size in (4, 2, 1):
        if size < student.shape[2]:
            weights.append(weights[-1] / 2)
            sums.append(weights[-1] * np.mean((pooled(student, size) - pooled(teacher, size)) ** 2))
    return float(np.sum(sums) / np.sum(weights))


def reference(adapter: Review, student: list[Array], teacher: list[Array]) -> float:
    """Return the loss of all levels; the deepest one, the embedding, is last."""
    total, deeper = 0.0, None
    for level in reversed(range(len(student))):
        fusion = adapter.fusions[level]
        assert isinstance(fusion, Fusion)
        x = normalized(convolution(student[level], fusion.enter))
        if deeper is not None:
            assert fusion.attention is not None
            above = nearest(deeper, (x.shape[2], x.shape[3]))
            scores = convolution(np.concatenate([x, above], axis=1), fusion.attention)
            shares = 1 / (1 + np.exp(-scores))
            x = shares[:, 0:1] * x + shares[:, 1:2] * above
        deeper = nearest(x, teacher[level].shape[2:])
        total += reference_hcl(normalized(convolution(deeper, fusion.predict)), teacher[level])
    return total


def levels(side: Outputs, stages: tuple[int, ...]) -> list[Array]:
    assert side.embedding is not None
    return [*(side.features[stage].numpy() for stage in stages), side.embedding.numpy()[:, :, None, None]]


def adapter_of(method: ReviewKD, student: Outputs, teacher: Outputs) -> Review:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        adapter = method.adapter(student, teacher, TARGETS)
    assert isinstance(adapter, Review)
    return adapter.double()


SIZES = {
    "equal sizes": (((3, 8, 8), (4, 4, 4)), ((5, 8, 8), (6, 4, 4))),
    "a teacher of larger maps": (((3, 4, 4), (4, 2, 2)), ((5, 8, 8), (6, 4, 4))),
    "a teacher of smaller maps": (((3, 8, 8), (4, 8, 8)), ((5, 4, 4), (6, 1, 1))),
    "sizes that are no multiples": (((3, 6, 6), (4, 3, 3)), ((5, 7, 7), (6, 5, 5))),
}


@pytest.mark.parametrize(("ours", "theirs"), SIZES.values(), ids=SIZES)
def test_term_is_that_of_the_papers_formulas(ours: Any, theirs: Any) -> None:
    method, student, teacher = ReviewKD(), outputs(6, *ours), outputs(7, *theirs)
    adapter = adapter_of(method, student, teacher)
    actual = method.terms(student, teacher, TARGETS, adapter)["reviewkd"].item()
    expected = reference(adapter, levels(student, (0, 1)), levels(teacher, (0, 1)))
    assert actual == pytest.approx(expected, rel=1e-9)


def test_chosen_stages_are_fused_from_deep_to_shallow_in_any_order() -> None:
    shapes = ((3, 8, 8), (4, 4, 4), (5, 2, 2))
    student, teacher = outputs(6, *shapes), outputs(7, *shapes)
    expected = None
    for stages in ((0, 2), (2, 0), (-1, 0), (-1, -3)):
        method = ReviewKD(stages=stages)
        adapter = adapter_of(method, student, teacher)
        assert len(adapter.fusions) == 3, "two stages and the embedding"
        actual = method.terms(student, teacher, TARGETS, adapter)["reviewkd"].item()
        expected = expected or reference(adapter, levels(student, (0, 2)), levels(teacher, (0, 2)))
        assert actual == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("limit", "channels"), [(512, 6), (4, 4)])
def test_fused_maps_have_the_embeddings_channels_and_at_most_the_limit(limit: int, channels: int) -> None:
    student, teacher = outputs(6, (8, 4, 4)), outputs(7, (5, 4, 4))
    adapter = adapter_of(ReviewKD(max_mid_channels=limit), student, teacher)
    assert {fusion.enter.out_channels for fusion in adapter.fusions} == {channels}  # type: ignore[union-attr]
    assert [fusion.predict.out_channels for fusion in adapter.fusions] == [5, 7]  # type: ignore[union-attr]


def test_hcl_of_the_paper_weighs_pooled_sizes_by_halves() -> None:
    """A difference of 1 everywhere has the same mean at every size; one of alternating signs has it at full size."""
    teacher = torch.zeros(2, 3, 8, 8)
    assert hcl_loss(teacher + 1, teacher).item() == pytest.approx(1)
    signs = torch.ones(8, 8)
    signs[::2, 1::2] = signs[1::2, ::2] = -1
    assert hcl_loss(teacher + signs, teacher).item() == pytest.approx(1 / (1 + 1 / 2 + 1 / 4 + 1 / 8))
    assert hcl_loss(signs.expand(2, 3, 8, 8)[:, :, :4, :4], teacher[:, :, :4, :4]).item() == pytest.approx(1 / 1.75)
    assert hcl_loss(teacher[:, :, :1, :1] + 3, teacher[:, :, :1, :1]).item() == pytest.approx(9)


def test_term_rises_linearly_over_the_first_epochs() -> None:
    method = ReviewKD(kd_weight=0.5)
    assert method.weights(0) == {"ce": 1.0, "kd": 0.5, "reviewkd": 0.0}
    assert method.weights(5) == {"ce": 1.0, "kd": 0.5, "reviewkd": 1.25}
    assert method.weights(20) == method.weights(200) == {"ce": 1.0, "kd": 0.5, "reviewkd": 5.0}
    assert replace(method, warmup_epochs=0.0).weights(0) == method.weights(20)
    epochs = recipe(epochs=15)
    assert run_of("distilled", method=method, student=epochs).unfinished_warmup == (20, 14 / 20)


# In training


def training_of(method: Method) -> tuple[TrainState, Batch]:
    run = run_of("distilled", method=method, student=recipe(model=ResNet((1, 1, 1, 1), 8)))
    training = make_train_state(run, digits(), choose_compute(CPU, "fp32"), teacher_of(run))
    return training, next(training.loader.epoch(0))


def test_teacher_returns_preactivations_to_methods_that_read_them() -> None:
    """A map after the ReLU has no negative values; the embedding stays that of the usual network."""
    results = {}
    for method in (ReviewKD(), AttentionTransfer()):
        training, batch = training_of(method)
        results[method.kind] = training.teacher(batch)
    review, attention = results["reviewkd"], results["at"]
    assert review is not None and attention is not None
    assert all((maps < 0).any() for maps in review.features)
    assert all((maps >= 0).all() for maps in attention.features)
    assert torch.equal(review.logits, attention.logits)


def test_every_layer_of_the_fusions_is_trained() -> None:
    training, batch = training_of(ReviewKD())
    training.objective.train()
    before = {name: p.detach().clone() for name, p in training.objective.named_parameters()}
    training.step(batch, training.run.method.weights(20))
    unchanged = [name for name, p in training.objective.named_parameters() if torch.equal(p, before[name])]
    assert not unchanged
    assert any(name.startswith("adapter.fusions.4.") for name in before)
