"""Adapters against slow references: regressors, variances, embeddings, and CRD's memory banks."""

from typing import Any

import numpy as np
import pytest
import torch
from small_runs import CPU, digits, recipe, run_of, teacher_of
from torch import Tensor, nn

from raykd.errors import ConfigError
from raykd.methods import CRD, NST, VID, AttentionTransfer, CorrelationCongruence, FitNets, StageMethod
from raykd.methods.crd import Contrast
from raykd.methods.fitnets import regressor
from raykd.methods.vid import Prediction, vid_loss
from raykd.outputs import Outputs, Targets
from raykd.spec.recipe import SGD
from raykd.training.compute import choose_compute
from raykd.training.network_checks import NetworkChecks
from raykd.training.training_step import TrainState, make_train_state

GENERATOR = torch.Generator().manual_seed(0)


def maps(*shapes: tuple[int, ...]) -> Outputs:
    return Outputs(
        torch.randn(6, 10, generator=GENERATOR),
        torch.randn(6, 8, generator=GENERATOR),
        tuple(torch.rand(6, *shape, generator=GENERATOR) for shape in shapes),
    )


IMAGES = Targets(torch.arange(12) % 3, torch.arange(12) * 2)
FOUR = ((4, 8, 8), (8, 4, 4), (16, 2, 2), (32, 1, 1))


def steps(method: Any, number: int, **changes: Any) -> TrainState:
    """Return the state after some steps of plain SGD without weight decay, so that only the loss moves parameters."""
    student_recipe = recipe(optimizer=SGD(lr=0.1, momentum=0.0, weight_decay=0.0), **changes)
    run = run_of("distilled", method=method, student=student_recipe)
    training = make_train_state(run, digits(), choose_compute(CPU, "fp32"), teacher_of(run))
    training.objective.train()
    for batch, _ in zip(training.loader.epoch(0), range(number), strict=False):
        training.step(batch, run.method.weights(0))
    return training


# FitNets


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ((4, 8, 8), (6, 8, 8)),
        ((4, 8, 8), (6, 4, 4)),
        ((4, 4, 4), (6, 8, 8)),
        ((4, 7, 7), (6, 4, 4)),
        ((4, 9, 7), (6, 3, 4)),
        ((4, 1, 1), (6, 1, 1)),
    ],
)
def test_regressor_makes_the_teachers_shape(student: tuple[int, ...], teacher: tuple[int, ...]) -> None:
    ours, theirs = torch.rand(6, *student), torch.rand(6, *teacher)
    assert regressor(ours, theirs)(ours).shape == theirs.shape


def test_regressor_ends_in_a_relu_where_the_teachers_map_does() -> None:
    ours, theirs = torch.rand(6, 4, 8, 8), torch.rand(6, 5, 8, 8)
    assert isinstance(regressor(ours, theirs)[-1], nn.ReLU)
    assert isinstance(regressor(ours, theirs - 0.5)[-1], nn.BatchNorm2d)


def test_fitnets_is_the_mean_squared_error_of_the_regressed_map() -> None:
    """Compare with NumPy, convolution and batch norm included; 1x1 to keep it short."""
    student, teacher = maps((3, 4, 4)), maps((5, 4, 4))
    method = FitNets(stages=(0,))
    adapter = method.adapter(student, teacher, IMAGES).double()
    ours, theirs = student.features[0].double(), teacher.features[0].double()
    inputs = (student._replace(features=(ours,)), teacher._replace(features=(theirs,)), IMAGES, adapter)
    actual = method.terms(*inputs)["fitnets"].item()
    weight, bias = (p.detach().numpy() for p in (adapter[0][0].weight, adapter[0][0].bias))  # type: ignore[index]
    x = np.einsum("oi,bihw->bohw", weight[:, :, 0, 0], ours.numpy()) + bias[:, None, None]
    mean, variance = x.mean((0, 2, 3), keepdims=True), x.var((0, 2, 3), keepdims=True)
    expected = np.mean((np.maximum((x - mean) / np.sqrt(variance + 1e-5), 0) - theirs.numpy()) ** 2)
    assert actual == pytest.approx(expected, rel=1e-9)


# VID


def test_vid_is_the_negative_log_likelihood_up_to_a_constant() -> None:
    mean, teacher = torch.randn(2, 6, 3, 4, 4, dtype=torch.float64, generator=GENERATOR)
    variance = torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64)
    total = 0.0
    for b, k, h, w in np.ndindex(*mean.shape):
        v, d = variance[k].item(), (mean[b, k, h, w] - teacher[b, k, h, w]).item()
        total += 0.5 * (d * d / v + np.log(v))
    assert vid_loss(mean, variance, teacher).item() == pytest.approx(total / mean.numel(), rel=1e-12)
    normal = torch.distributions.Normal(mean, variance.sqrt()[:, None, None]).log_prob(teacher)
    assert vid_loss(mean, variance, teacher).item() == pytest.approx(-normal.mean().item() - 0.5 * np.log(2 * np.pi))


def test_gradients_of_vid_reach_mean_and_variance() -> None:
    mean, teacher = torch.randn(2, 2, 3, 2, 2, dtype=torch.float64, generator=GENERATOR)
    variance = torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64)
    inputs = mean.requires_grad_(), variance.requires_grad_()
    assert torch.autograd.gradcheck(lambda m, v: vid_loss(m, v, teacher), inputs)


@pytest.mark.parametrize("initial", [1e-4, 0.3, 5.0, 40.0])
def test_vid_starts_with_the_initial_variance(initial: float) -> None:
    variance = Prediction(3, 5, initial).variance
    assert variance.tolist() == pytest.approx([initial] * 5, rel=1e-3)


def test_vids_variance_is_trained_in_every_stage() -> None:
    """Public code that leaves it out of the optimizer trains a plain squared error."""
    training = steps(VID(), 4)
    assert isinstance(training.objective.adapter, nn.ModuleList) and len(training.objective.adapter) == 4
    for prediction in training.objective.adapter:
        assert isinstance(prediction, Prediction)
        assert (prediction.variance < 5 - 1e-4).all(), "the teacher's maps vary by less than 5"
    held = {id(p) for group in training.optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in training.objective.parameters()}


# Models with different shapes


@pytest.mark.parametrize("method", [AttentionTransfer(), NST(), VID(), FitNets()], ids=lambda method: method.kind)
@pytest.mark.parametrize(
    "sizes", [((4, 8, 8), (6, 4, 4)), ((4, 4, 4), (6, 8, 8)), ((4, 8, 8), (6, 8, 8)), ((4, 8, 8), (6, 14, 14))]
)
def test_stage_methods_accept_different_sizes_and_channels(method: StageMethod, sizes: Any) -> None:
    student, teacher = (maps(shape, shape) for shape in sizes)
    adapter = method.adapter(student, teacher, IMAGES)
    term = method.terms(student, teacher, IMAGES, adapter)[method.kind]
    assert term.shape == () and term.isfinite()


@pytest.mark.parametrize(
    ("student", "teacher", "stages", "message"),
    [
        ((), FOUR, (), "the student's model returns no feature maps"),
        (FOUR, (), (), "the teacher's model returns no feature maps"),
        (FOUR[:3], FOUR, (), "the student has 3 stages and the teacher 4; name the stages to pair"),
        (
            FOUR,
            FOUR,
            (4,),
            r"stages = \(4,\) in AttentionTransfer: must lie in \[-4, 3\], because one of the models has only 4 stages",
        ),
        (
            FOUR[:3],
            FOUR,
            (-4,),
            r"stages = \(-4,\) in AttentionTransfer: must lie in \[-3, 2\], because .* only 3 stages",
        ),
    ],
)
def test_missing_stages_are_refused_in_one_line(student: Any, teacher: Any, stages: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        AttentionTransfer(stages=stages).adapter(maps(*student), maps(*teacher), IMAGES)
    assert "\n" not in str(caught.value)


def test_embeddings_of_cc_are_trained_on_both_sides() -> None:
    training, before = steps(CorrelationCongruence(), 3), steps(CorrelationCongruence(), 0)
    assert isinstance(training.objective.adapter, nn.ModuleList) and isinstance(before.objective.adapter, nn.ModuleList)
    for moved, fresh in zip(training.objective.adapter, before.objective.adapter, strict=True):
        assert isinstance(moved, nn.Linear) and isinstance(fresh, nn.Linear) and moved.out_features == 128
        assert not torch.equal(moved.weight, fresh.weight)


# CRD


def contrast(**changes: Any) -> tuple[CRD, Contrast]:
    method = CRD(dimensions=5, negatives=7, **changes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        adapter = method.adapter(maps(*FOUR), maps(*FOUR), IMAGES)
    assert isinstance(adapter, Contrast)
    return method, adapter


def reference_crd(adapter: Contrast, vectors: tuple[Tensor, Tensor], positions: Any, negatives: Any) -> float:
    """Return the authors' two sums, computed by loops in float64. Each model is contrasted with the other's bank."""
    units = []
    for layer, of_model in zip(adapter.layers, vectors, strict=True):
        assert isinstance(layer, nn.Linear)
        x = of_model.double().numpy() @ layer.weight.detach().double().numpy().T + layer.bias.detach().double().numpy()
        units.append(x / np.linalg.norm(x, axis=1, keepdims=True))
    banks, n, k = adapter.banks.double().numpy(), len(IMAGES.index), negatives.shape[1]
    total = 0.0
    for anchors, bank in ((units[1], banks[0]), (units[0], banks[1])):
        chosen = np.concatenate([np.asarray(positions)[:, None], negatives], axis=1)
        out = np.exp(np.einsum("bd,bjd->bj", anchors, bank[chosen]) / 0.07)
        out = out / (out.mean() * n)
        positive = np.log(out[:, 0] / (out[:, 0] + k / n + 1e-7))
        negative = np.log((k / n) / (out[:, 1:] + k / n + 1e-7))
        total -= (positive.sum() + negative.sum()) / len(positions)
    return total


def test_crd_equals_the_authors_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    _, adapter = contrast()
    positions, negatives = [3, 7, 0, 11], np.array([[1, 2, 4, 5, 8, 10, 11], [0, 2, 3, 3, 6, 9, 8]] * 2)
    monkeypatch.setattr(adapter, "_negatives", lambda labels: torch.from_numpy(negatives))
    student, teacher = torch.randn(2, 4, 8, generator=GENERATOR)
    targets = Targets(IMAGES.labels[positions], IMAGES.index[positions])
    actual = adapter(student, teacher, targets).item()
    assert actual == pytest.approx(reference_crd(adapter, (student, teacher), positions, negatives), rel=1e-5)


def test_crds_gradients_are_those_of_finite_differences() -> None:
    _, adapter = contrast()
    adapter.double()
    targets = Targets(IMAGES.labels[:4], IMAGES.index[:4])
    student, teacher = torch.randn(2, 4, 8, generator=GENERATOR, dtype=torch.float64)
    adapter.scales.fill_(30.0)

    def loss(vectors: Tensor) -> Tensor:
        torch.manual_seed(0)
        return adapter(vectors, teacher, targets)

    assert torch.autograd.gradcheck(loss, student.requires_grad_())


def test_crds_negatives_are_all_images_of_other_classes_and_no_others() -> None:
    _, adapter = contrast()
    labels = torch.tensor([0, 1, 2])
    drawn = torch.cat([adapter._negatives(labels) for _ in range(60)], dim=1)
    for label, positions in zip(labels, drawn, strict=True):
        assert set(positions.tolist()) == {i for i in range(12) if IMAGES.labels[i] != label}


def test_crd_banks_are_moving_averages_and_the_scale_is_set_once() -> None:
    _, adapter = contrast(momentum=0.75)
    fresh = adapter.banks.clone()
    targets = Targets(IMAGES.labels[[5, 2]], IMAGES.index[[5, 2]])
    student, teacher = torch.randn(2, 2, 8, generator=GENERATOR)
    adapter(student, teacher, targets)
    assert torch.equal(adapter.banks, fresh), "this step's own images are contrasted with what was seen before"
    adapter.remember(lambda tensor: tensor[None])
    for side, vectors in enumerate((student, teacher)):
        seen = nn.functional.normalize(adapter.layers[side](vectors))
        moved = nn.functional.normalize(0.75 * fresh[side, [5, 2]] + 0.25 * seen)
        torch.testing.assert_close(adapter.banks[side, [5, 2]], moved.detach())
        untouched = [i for i in range(12) if i not in (5, 2)]
        assert torch.equal(adapter.banks[side, untouched], fresh[side, untouched])
    scales = adapter.scales.clone()
    assert (scales > 0).all()
    adapter(3 * teacher, student, targets)
    adapter.remember(lambda tensor: tensor[None])
    assert torch.equal(adapter.scales, scales)


def test_two_workers_store_the_same_banks_as_one() -> None:
    """Each worker stores the other's images too, and Z is the mean over both."""
    workers, (_, alone) = [contrast()[1] for _ in range(2)], contrast()
    positions = [5, 2, 8, 0]
    student, teacher = torch.randn(2, 4, 8, generator=GENERATOR)
    for worker, half in zip(workers, (slice(0, 2), slice(2, 4)), strict=True):
        rows = positions[half]
        worker(student[half], teacher[half], Targets(IMAGES.labels[rows], IMAGES.index[rows]))
    alone(student, teacher, Targets(IMAGES.labels[positions], IMAGES.index[positions]))
    parts = [worker._last_pass for worker in workers]
    for worker in workers:
        gathered = iter([torch.stack(pair) for pair in zip(*parts, strict=True)])
        worker.remember(lambda tensor, gathered=gathered: next(gathered))
    alone.remember(lambda tensor: tensor[None])
    assert torch.equal(workers[0].banks, workers[1].banks) and torch.equal(workers[0].scales, workers[1].scales)
    torch.testing.assert_close(workers[0].banks, alone.banks)


def test_crd_of_one_class_is_refused() -> None:
    one_class = Targets(torch.zeros(12, dtype=torch.int64), IMAGES.index)
    with pytest.raises(ConfigError, match="requires training images of at least 2 classes"):
        CRD().adapter(maps(*FOUR), maps(*FOUR), one_class)


def test_crd_banks_have_a_row_for_each_training_image() -> None:
    training = steps(CRD(negatives=16), 2)
    adapter = training.objective.adapter
    assert isinstance(adapter, Contrast) and adapter.banks.shape == (2, 200, 128)
    fresh = steps(CRD(negatives=16), 0).objective.adapter
    assert isinstance(fresh, Contrast)
    changed = (adapter.banks != fresh.banks).any(2).sum(1)
    assert changed.tolist() == [100, 100], "two batches of 50"
    names = {name for name in training.objective.state_dict() if "adapter" in name}
    assert {"adapter.banks", "adapter.scales"} <= names


# Checks before training


@pytest.mark.parametrize("method", [AttentionTransfer(stages=(7,)), FitNets(stages=(5,))])
def test_method_that_does_not_fit_its_models_is_refused_before_training(method: StageMethod) -> None:
    with pytest.raises(ConfigError, match="one of the models has only 4 stages"):
        NetworkChecks(digits()).require_method_fits(run_of("distilled", method=method))


def test_checking_a_method_leaves_the_random_generators_unchanged() -> None:
    run = run_of("distilled", method=CRD())
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    NetworkChecks(digits()).require_method_fits(run)
    assert torch.equal(torch.rand(1), expected)
