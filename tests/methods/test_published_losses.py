"""Tests of every loss against the authors' public implementations, and of properties of all losses."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from drawn import GOLDEN, Drawn, draw
from torch import Tensor

from raykd.methods import (
    attention_transfer_loss,
    correlation_congruence_loss,
    dist_loss,
    dkd_loss,
    feature_mse_loss,
    kd_loss,
    logit_standardization_kl,
    nst_loss,
    pkt_loss,
    rkd_angle_loss,
    rkd_distance_loss,
    similarity_preserving_loss,
)
from raykd.methods.dkd import nckd_loss, tckd_loss
from raykd.methods.hard_labels import hard_label_loss
from raykd.methods.reviewkd import hcl_loss
from raykd.methods.vid import vid_loss

Loss = Callable[[Tensor, Tensor], Tensor]

PUBLISHED: dict[str, Callable[[Drawn], Tensor]] = {
    "dkd(alpha=1.0,beta=8.0,temperature=4.0)": lambda d: dkd_loss(d.student, d.teacher, d.labels, 1.0, 8.0, 4.0),
    "dkd(alpha=1.0,beta=2.0,temperature=1.0)": lambda d: dkd_loss(d.student, d.teacher, d.labels, 1.0, 2.0, 1.0),
    # Values of torchdistill, which has no epsilon at these lengths; test_hard_inputs.py tests the authors' epsilon.
    "dist(beta=1.0,gamma=1.0,temperature=1.0)": lambda d: dist_loss(d.student, d.teacher, 1.0, 1.0, 1.0, epsilon=0.0),
    "dist(beta=2.0,gamma=2.0,temperature=4.0)": lambda d: dist_loss(d.student, d.teacher, 2.0, 2.0, 4.0, epsilon=0.0),
    "logit_standardization_kl(temperature=2.0, batch mean, before any temperature**2 factor)": (
        lambda d: logit_standardization_kl(d.student, d.teacher, 2.0)
    ),
    "attention_transfer(p=2)": lambda d: attention_transfer_loss(d.student_map, d.teacher_map, p=2),
    "fitnets_mse(map)": lambda d: feature_mse_loss(d.student_map, d.teacher_map),
    "similarity_preserving(map)": lambda d: similarity_preserving_loss(d.student_map, d.teacher_map),
    "rkd(distance=25,angle=50)": lambda d: (
        25 * rkd_distance_loss(d.student_vec, d.teacher_vec) + 50 * rkd_angle_loss(d.student_vec, d.teacher_vec)
    ),
    "rkd_distance": lambda d: rkd_distance_loss(d.student_vec, d.teacher_vec),
    "rkd_angle": lambda d: rkd_angle_loss(d.student_vec, d.teacher_vec),
    "pkt": lambda d: pkt_loss(d.student_vec, d.teacher_vec),
    "nst(poly kernel)": lambda d: nst_loss(d.student_map, d.teacher_map),
    "correlation_congruence(consecutive pairs)": lambda d: correlation_congruence_loss(d.student_vec, d.teacher_vec),
}


@pytest.mark.parametrize(
    ("name", "case"),
    [
        pytest.param(name, case, id=f"{name.split(',')[0]}-seed{case['seed']}")
        for name in PUBLISHED
        for case in GOLDEN["cases"]
        if case["values"].get(name) is not None  # public code has no value where numbers of channels differ
    ],
)
def test_loss_is_the_published_one(name: str, case: dict) -> None:
    assert PUBLISHED[name](draw(case)).item() == pytest.approx(case["values"][name], rel=1e-9, abs=0)


def test_every_published_value_is_tested() -> None:
    elsewhere = ("kd(", "ce", "alpha*ce", "feature_")  # test_losses.py
    names = {name for case in GOLDEN["cases"] for name in case["values"] if not name.startswith(elsewhere)}
    assert names == set(PUBLISHED)


@dataclass(frozen=True)
class Kind:
    """A loss of (student, teacher), the shapes of its inputs, and whether it is 0 (up to `least`) for equal inputs."""

    loss: Loss
    student: tuple[int, ...]
    teacher: tuple[int, ...]
    zero: bool = True
    least: float = 1e-13


LABELS = torch.tensor([1, 0, 3, 2, 4, 0])
LOGITS, MAPS = ((6, 5), (6, 5)), ((6, 3, 4, 4), (6, 5, 2, 2))
VECTORS = ((6, 4), (6, 7))
VARIANCE = torch.tensor([0.5, 1.0, 4.0])
KINDS: dict[str, Kind] = {
    "kd": Kind(lambda s, t: kd_loss(s, t, 4.0), *LOGITS),
    "dkd": Kind(lambda s, t: dkd_loss(s, t, LABELS[: len(s)], 1.0, 8.0, 4.0), *LOGITS),
    "dist": Kind(lambda s, t: dist_loss(s, t, 1.0, 2.0, 4.0), *LOGITS, least=2e-5),  # its epsilon
    "logit_standardization": Kind(lambda s, t: logit_standardization_kl(s, t, 2.0), *LOGITS),
    "hard_labels": Kind(hard_label_loss, *LOGITS, zero=False),
    "at": Kind(attention_transfer_loss, *MAPS),
    "at of power 1": Kind(lambda s, t: attention_transfer_loss(s, t, 1), *MAPS),
    "sp": Kind(similarity_preserving_loss, *MAPS),
    "nst": Kind(nst_loss, *MAPS),
    "reviewkd": Kind(hcl_loss, (6, 3, 5, 5), (6, 3, 5, 5)),
    "nst of few channels": Kind(nst_loss, (6, 2, 4, 4), (6, 3, 4, 4)),
    "rkd_distance": Kind(rkd_distance_loss, *VECTORS),
    "rkd_angle": Kind(rkd_angle_loss, *VECTORS),
    "pkt": Kind(pkt_loss, *VECTORS),
    "cc": Kind(correlation_congruence_loss, (6, 4), (6, 4)),
    "mse": Kind(feature_mse_loss, (6, 4), (6, 4)),
    "vid": Kind(lambda s, t: vid_loss(s, VARIANCE, t), (6, 3, 2, 2), (6, 3, 2, 2), zero=False),
}
ALL = pytest.mark.parametrize("kind", [pytest.param(kind, id=name) for name, kind in KINDS.items()])


def pair(kind: Kind, dtype: torch.dtype = torch.float64, size: float = 3.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (
        (size * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)
        for shape in (kind.student, kind.teacher)
    )
    return student.requires_grad_(), teacher


@ALL
def test_gradients_are_those_of_finite_differences(kind: Kind) -> None:
    student, teacher = pair(kind)
    assert torch.autograd.gradcheck(lambda s: kind.loss(s, teacher), student)


@ALL
def test_float64_stays_and_the_teacher_may_be_of_another_float_type(kind: Kind) -> None:
    student, teacher = pair(kind)
    assert kind.loss(student, teacher).dtype == torch.float64 and kind.loss(student, teacher).shape == ()
    half = teacher.half()
    assert torch.equal(kind.loss(student.float(), half), kind.loss(student.float(), half.float()))


@ALL
def test_equal_outputs_give_zero_and_others_more(kind: Kind) -> None:
    student, teacher = pair(kind)
    same = kind.loss(student, student.detach()).item()
    assert not kind.zero or same == pytest.approx(0, abs=kind.least)
    assert kind.loss(student, teacher).item() > same + 1e-6


@ALL
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_is_computed_in_float32(kind: Kind, dtype: torch.dtype, autocast: bool) -> None:
    student, teacher = pair(kind, dtype, size=1.0)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        actual = kind.loss(student, teacher)
        whole = kind.loss(student.float(), teacher.float())
    assert actual.dtype == torch.float32 and torch.equal(actual, whole)
    assert actual.item() == pytest.approx(kind.loss(student.double(), teacher.double()).item(), rel=1e-4, abs=1e-6)


def degenerate(kind: Kind) -> dict[str, tuple[Tensor, Tensor]]:
    """Return batches on which public code fails: huge, all zero, all equal, one class that both models are sure of."""
    student, teacher = (tensor.detach().float() for tensor in pair(kind))
    signs = student.sign() * 1e4, -teacher.sign() * 1e4
    equal = tuple(tensor[:1].expand_as(tensor).clone() for tensor in (student, teacher))
    sure = student.clone(), teacher.clone()
    for tensor in sure:
        tensor[:, 0] = 50.0
    constant = torch.full_like(student, 2.0), torch.full_like(teacher, -1.0)
    return {
        "1e4": signs,
        "zeros": (torch.zeros_like(student), torch.zeros_like(teacher)),
        "student dead": (torch.zeros_like(student), teacher),
        "identical images": equal,
        "student alike": (equal[0], teacher),
        "one class": sure,
        "constant": constant,
    }


@ALL
@pytest.mark.parametrize(
    "batch", ["1e4", "zeros", "student dead", "identical images", "student alike", "one class", "constant"]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_degenerate_batches_give_finite_losses_and_gradients(kind: Kind, batch: str, dtype: torch.dtype) -> None:
    student, teacher = (tensor.to(dtype) for tensor in degenerate(kind)[batch])
    student.requires_grad_()
    loss = kind.loss(student, teacher)
    loss.backward()
    assert loss.isfinite() and student.grad is not None and student.grad.isfinite().all()
    if batch != "1e4":
        assert student.grad.float().abs().max() < 1e3, "a step of this size would end a training"


@pytest.mark.parametrize("label", [0, 4])
def test_dkd_of_a_batch_of_one_class_is_finite_and_splits_kd(label: int) -> None:
    """KL = TCKD + (1 - p_label of the teacher) * NCKD, image by image: the paper's equation 6."""
    student, teacher = (tensor.detach() for tensor in pair(KINDS["dkd"]))
    labels = torch.full((len(student),), label)
    p = teacher.softmax(1)[:, label]
    each = [slice(i, i + 1) for i in range(len(student))]
    for i in each:
        parts = tckd_loss(student[i], teacher[i], labels[i], 1.0), nckd_loss(student[i], teacher[i], labels[i], 1.0)
        assert (parts[0] + (1 - p[i]) * parts[1]).item() == pytest.approx(kd_loss(student[i], teacher[i], 1.0).item())
