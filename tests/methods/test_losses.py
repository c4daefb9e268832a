"""Tests of the losses against published values, a slow float64 reference, identities and extremes."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from drawn import CASES, GOLDEN, draw
from torch import Tensor

from raykd.methods import distillation_loss, feature_cosine_loss, feature_mse_loss, kd_loss

TEMPERATURES = (0.5, 1.0, 2.0, 4.0, 8.0, 20.0)


def reference_kl(student: Tensor, teacher: Tensor, temperature: float) -> float:
    """Return KL(teacher || student) of softened outputs in nats, summed class by class in extended precision."""
    total = np.longdouble(0)
    for student_row, teacher_row in zip(student.double().numpy(), teacher.double().numpy(), strict=True):
        s, t = (row.astype(np.longdouble) / temperature for row in (student_row, teacher_row))
        log_p_s = s - s.max() - np.log(np.exp(s - s.max()).sum())
        log_p_t = t - t.max() - np.log(np.exp(t - t.max()).sum())
        for c in range(len(s)):
            total += np.exp(log_p_t[c]) * (log_p_t[c] - log_p_s[c])
    return float(total / len(student))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0, 8.0])
def test_kd_loss_is_the_published_one(case: dict, temperature: float) -> None:
    drawn = draw(case)
    golden = case["values"][f"kd(temperature={temperature})"]
    assert kd_loss(drawn.student, drawn.teacher, temperature).item() == pytest.approx(golden, rel=1e-9, abs=0)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.9])
def test_distillation_loss_is_the_published_one(case: dict, alpha: float) -> None:
    drawn = draw(case)
    golden = case["values"][f"alpha*ce+(1-alpha)*kd(alpha={alpha},temperature=4.0)"]
    loss = distillation_loss(drawn.student, drawn.teacher, drawn.labels, alpha, temperature=4.0)
    assert loss.item() == pytest.approx(golden, rel=1e-9, abs=0)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ["feature_mse", "feature_cosine"])
def test_feature_losses_are_the_published_ones(case: dict, name: str) -> None:
    drawn = draw(case)
    loss = {"feature_mse": feature_mse_loss, "feature_cosine": feature_cosine_loss}[name]
    golden = case["values"][f"{name}(vec)"]
    assert loss(drawn.student_vec, drawn.teacher_vec).item() == pytest.approx(golden, rel=1e-9, abs=0)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_kd_loss_is_temperature_squared_times_kl(temperature: float) -> None:
    drawn = draw(GOLDEN["cases"][0])
    expected = temperature**2 * reference_kl(drawn.student, drawn.teacher, temperature)
    assert kd_loss(drawn.student, drawn.teacher, temperature).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_temperature_squared_stays_at_both_ends_of_alpha(alpha: float) -> None:
    drawn = draw(GOLDEN["cases"][0])
    kl = reference_kl(drawn.student, drawn.teacher, 4.0)
    ce = GOLDEN["cases"][0]["values"]["ce"]
    loss = distillation_loss(drawn.student, drawn.teacher, drawn.labels, alpha, temperature=4.0)
    assert loss.item() == pytest.approx(16 * kl if alpha == 0 else ce, rel=1e-12)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_equal_outputs_give_zero(temperature: float) -> None:
    drawn = draw(GOLDEN["cases"][0])
    assert kd_loss(drawn.student, drawn.student, temperature).item() == 0
    shifted = drawn.student + torch.arange(16.0)[:, None]  # softmax does not see a constant
    assert kd_loss(drawn.student, shifted, temperature).item() == pytest.approx(0, abs=1e-12)
    assert feature_mse_loss(drawn.student_vec, drawn.student_vec).item() == 0
    assert feature_cosine_loss(drawn.student_vec, 3 * drawn.student_vec).item() == pytest.approx(0, abs=1e-15)


def test_kd_loss_is_never_negative_and_not_symmetric() -> None:
    drawn = draw(GOLDEN["cases"][1])
    there, back = kd_loss(drawn.student, drawn.teacher, 2.0), kd_loss(drawn.teacher, drawn.student, 2.0)
    assert there > 0 and back > 0 and there != back


def test_high_temperature_matches_logits() -> None:
    """Section 2.1 of the paper: temperature^2 KL -> sum of squared differences of centred logits / (2 C)."""
    drawn = draw(GOLDEN["cases"][0])
    student = drawn.student - drawn.student.mean(1, keepdim=True)
    teacher = drawn.teacher - drawn.teacher.mean(1, keepdim=True)
    limit = ((student - teacher) ** 2).sum(1).mean() / (2 * 10)
    assert kd_loss(drawn.student, drawn.teacher, 1e4).item() == pytest.approx(limit.item(), rel=1e-3)


@pytest.mark.parametrize(
    "loss",
    [
        lambda student, teacher: kd_loss(student, teacher, 4.0),
        lambda student, teacher: distillation_loss(student, teacher, torch.tensor([0, 2, 1]), 0.3, 2.0),
        feature_mse_loss,
        feature_cosine_loss,
    ],
    ids=["kd", "distillation", "mse", "cosine"],
)
def test_gradients_are_those_of_finite_differences(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64) * 3
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher), student.requires_grad_())


@pytest.mark.parametrize("temperature", [0.1, 1.0, 4.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_extreme_logits_stay_finite_with_their_gradients(dtype: torch.dtype, temperature: float) -> None:
    student = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4], [0.0, 0.0, 0.0]], dtype=dtype, requires_grad=True)
    teacher = torch.tensor([[-1e4, 1e4, 0.0], [1e4, -1e4, -1e4], [1e4, 0.0, -1e4]], dtype=dtype)
    loss = distillation_loss(student, teacher, torch.tensor([1, 0, 2]), 0.5, temperature)
    loss.backward()
    assert loss.isfinite() and student.grad is not None and student.grad.isfinite().all()


def test_cosine_of_a_zero_vector_is_finite_with_its_gradient() -> None:
    student = torch.zeros(2, 4, requires_grad=True)
    loss = feature_cosine_loss(student, torch.ones(2, 4))
    loss.backward()
    assert loss.item() == 1 and student.grad is not None and student.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    drawn = draw(GOLDEN["cases"][0])
    student, teacher = drawn.student.to(dtype), drawn.teacher.to(dtype)
    student_vec, teacher_vec = drawn.student_vec.to(dtype), drawn.teacher_vec.to(dtype)
    for loss, half, whole in (
        (lambda a, b: kd_loss(a, b, 4.0), (student, teacher), (student.float(), teacher.float())),
        (feature_mse_loss, (student_vec, teacher_vec), (student_vec.float(), teacher_vec.float())),
        (feature_cosine_loss, (student_vec, teacher_vec), (student_vec.float(), teacher_vec.float())),
    ):
        actual = loss(*half)
        assert actual.dtype == torch.float32 and torch.equal(actual, loss(*whole))


def test_a_teacher_of_another_float_type_is_accepted() -> None:
    """A logit cache keeps the teacher's logits in float16."""
    drawn = draw(GOLDEN["cases"][0])
    half = drawn.teacher.half()
    assert torch.equal(kd_loss(drawn.student.float(), half, 4.0), kd_loss(drawn.student.float(), half.float(), 4.0))
