"""Tests of values and gradients on hard inputs: confident logits of up to 1,000 classes, dead images.

In float64 values agree with the reference to 1e-9 and gradients to 1e-7. In float32 the gradient's error is below 1e-3
of its length plus FLOOR, since only rounding is left if student and teacher are equal.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import references
import torch
from drawn import GOLDEN, HARD_CASES, Drawn, draw_hard
from torch import Tensor

from raykd.config import kinds
from raykd.methods import DIST, KD, Method, dist_loss, dkd_loss
from raykd.methods.at import attention_transfer_loss
from raykd.methods.cc import correlation_congruence_loss
from raykd.methods.crd import nce_loss
from raykd.methods.feature_kd import feature_cosine_loss, feature_mse_loss
from raykd.methods.hard_labels import hard_label_loss
from raykd.methods.kd import kd_loss
from raykd.methods.logit_standardization import standardize
from raykd.methods.nst import nst_loss
from raykd.methods.pkt import pkt_loss
from raykd.methods.reviewkd import hcl_loss
from raykd.methods.rkd import rkd_angle_loss, rkd_distance_loss
from raykd.methods.sp import similarity_preserving_loss
from raykd.methods.vid import vid_loss
from raykd.outputs import Outputs, Targets

FLOOR = {"equal": 2e-6}  # 16 epsilons of float32; of others 1e-9
NUM_IMAGES = 1000  # of CRD's banks


@dataclass(frozen=True)
class Hard:
    """A loss and its reference, functions of (student, teacher, labels), and the field of Drawn that they read."""

    of: str  # logits, vec or map
    loss: Callable[[Tensor, Tensor, Tensor], Tensor]
    reference: Callable[[Tensor, Tensor, Tensor], Tensor]


def log_p(student: Tensor) -> Tensor:
    """Return CRD's log P [2, B, 1 + K]: similarities in [-1, 1] / 0.07, the positive first."""
    unit = torch.nn.functional.normalize(student[3:])
    scores = unit @ unit.T.roll(1, 0) / 0.07
    return torch.stack([scores, -scores])


def variance(teacher: Tensor) -> Tensor:
    """Return variances of the channels from 1e-5, the smallest possible, to 100."""
    return torch.logspace(-5, 2, teacher.shape[1], dtype=teacher.dtype)


LOSSES = {
    "kd": Hard("logits", lambda s, t, y: kd_loss(s, t, 4.0), lambda s, t, y: references.kd(s, t, 4.0)),
    "kd of temperature 1": Hard("logits", lambda s, t, y: kd_loss(s, t, 1.0), lambda s, t, y: references.kd(s, t, 1.0)),
    "hard_labels": Hard("logits", lambda s, t, y: hard_label_loss(s, t), lambda s, t, y: references.hard_labels(s, t)),
    "dkd": Hard(
        "logits",
        lambda s, t, y: dkd_loss(s, t, y, 1.0, 8.0, 4.0),
        lambda s, t, y: references.dkd(s, t, y, 1.0, 8.0, 4.0),
    ),
    "dist": Hard(
        "logits",
        lambda s, t, y: dist_loss(s, t, 2.0, 2.0, 4.0),
        lambda s, t, y: references.dist(s, t, 2.0, 2.0, 4.0),
    ),
    "dist of temperature 1": Hard(
        "logits",
        lambda s, t, y: dist_loss(s, t, 1.0, 1.0, 1.0),
        lambda s, t, y: references.dist(s, t, 1.0, 1.0, 1.0),
    ),
    "logit_standardization": Hard(
        "logits",
        lambda s, t, y: kd_loss(standardize(s), standardize(t), 2.0),
        lambda s, t, y: references.kd(references.standardized(s), references.standardized(t), 2.0),
    ),
    "standardized_dkd": Hard(
        "logits",
        lambda s, t, y: dkd_loss(standardize(s), standardize(t), y, 9.0, 72.0, 2.0),
        lambda s, t, y: references.dkd(references.standardized(s), references.standardized(t), y, 9.0, 72.0, 2.0),
    ),
    "rkd_distance": Hard("vec", lambda s, t, y: rkd_distance_loss(s, t), lambda s, t, y: references.rkd_distance(s, t)),
    "rkd_angle": Hard("vec", lambda s, t, y: rkd_angle_loss(s, t), lambda s, t, y: references.rkd_angle(s, t)),
    "pkt": Hard("vec", lambda s, t, y: pkt_loss(s, t), lambda s, t, y: references.pkt(s, t)),
    "cc": Hard(
        "vec",
        lambda s, t, y: correlation_congruence_loss(s, t),
        lambda s, t, y: references.correlation_congruence(s, t),
    ),
    "crd": Hard(
        "vec", lambda s, t, y: nce_loss(log_p(s), NUM_IMAGES), lambda s, t, y: references.crd(log_p(s), NUM_IMAGES)
    ),
    "feature_kd by mse": Hard("vec", lambda s, t, y: feature_mse_loss(s, t), lambda s, t, y: ((s - t) ** 2).mean()),
    "feature_kd by cosine": Hard(
        "vec", lambda s, t, y: feature_cosine_loss(s, t), lambda s, t, y: references.cosine(s, t)
    ),
    "srrl": Hard("vec", lambda s, t, y: feature_mse_loss(s, t), lambda s, t, y: ((s - t) ** 2).mean()),
    "fitnets": Hard("map", lambda s, t, y: feature_mse_loss(s, t), lambda s, t, y: ((s - t) ** 2).mean()),
    "at": Hard(
        "map", lambda s, t, y: attention_transfer_loss(s, t), lambda s, t, y: references.attention_transfer(s, t)
    ),
    "sp": Hard(
        "map", lambda s, t, y: similarity_preserving_loss(s, t), lambda s, t, y: references.similarity_preserving(s, t)
    ),
    "nst": Hard("map", lambda s, t, y: nst_loss(s, t), lambda s, t, y: references.nst(s, t)),
    "reviewkd": Hard("map", lambda s, t, y: hcl_loss(s, t), lambda s, t, y: references.hcl(s, t)),
    "vid": Hard("map", lambda s, t, y: vid_loss(s, variance(t), t), lambda s, t, y: references.vid(s, variance(t), t)),
}


def pair(drawn: Drawn, of: str) -> tuple[Tensor, Tensor]:
    return {
        "logits": (drawn.student, drawn.teacher),
        "vec": (drawn.student_vec, drawn.teacher_vec),
        "map": (drawn.student_map, drawn.teacher_map),
    }[of]


def value_and_gradient(
    loss: Callable[[Tensor, Tensor, Tensor], Tensor], student: Tensor, teacher: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    student = student.clone().requires_grad_()
    value = loss(student, teacher, labels)
    (gradient,) = torch.autograd.grad(value, student)
    return value.detach().double(), gradient.double()


def alive(gradient: Tensor, student: Tensor) -> Tensor:
    """Leave out images that are all 0: the authors divide by their epsilon there, and raykd has no gradient."""
    return gradient[student.flatten(1).any(1)]


def test_every_method_has_a_reference() -> None:
    heads = {"deit"}  # hard_labels or kd on another head
    built_in = {kind for kind, method in kinds(Method).items() if method.__module__.startswith("raykd.methods.")}
    tested = {name.split()[0] for name in LOSSES} | {"rkd"}
    shared = {"embedding"}  # the losses of feature_kd
    assert built_in - {"ce"} - heads - shared <= tested


@pytest.mark.parametrize("case", HARD_CASES)
@pytest.mark.parametrize("name", LOSSES)
def test_value_and_gradient_on_hard_inputs_are_the_authors(name: str, case: dict) -> None:
    hard, drawn = LOSSES[name], draw_hard(case)
    student, teacher = pair(drawn, hard.of)
    expected, gradient = value_and_gradient(hard.reference, student, teacher, drawn.labels)
    value, found = value_and_gradient(hard.loss, student, teacher, drawn.labels)
    assert value.item() == pytest.approx(expected.item(), rel=1e-9, abs=1e-13)
    assert found.isfinite().all()
    torch.testing.assert_close(alive(found, student), alive(gradient, student), rtol=1e-7, atol=1e-13)


@pytest.mark.parametrize("case", HARD_CASES)
@pytest.mark.parametrize("name", LOSSES)
def test_gradient_on_hard_inputs_survives_float32(name: str, case: dict) -> None:
    """The teacher's values are float16, as in a logit cache, and are widened before the loss."""
    hard, drawn = LOSSES[name], draw_hard(case)
    student, teacher = (tensor.float() for tensor in pair(drawn, hard.of))
    expected, gradient = value_and_gradient(hard.reference, student.double(), teacher.double(), drawn.labels)
    given = teacher.half() if case["variant"] == "float16" else teacher
    value, found = value_and_gradient(hard.loss, student, given, drawn.labels)
    assert value.item() == pytest.approx(expected.item(), rel=1e-3, abs=1e-5)
    assert found.isfinite().all()
    error = (alive(found, student) - alive(gradient, student)).norm()
    assert error <= 1e-3 * alive(gradient, student).norm() + FLOOR.get(case["variant"], 1e-9)


def test_dist_and_kd_of_the_method_are_the_authors_on_hard_inputs() -> None:
    """The loss is weighted as in training."""
    drawn = draw_hard(GOLDEN["hard"]["cases"][0])
    for method, reference in (
        (DIST(), lambda s, t, y: references.dist(s, t, 2.0, 2.0, 4.0)),
        (KD(alpha=0.1), lambda s, t, y: 0.9 * references.kd(s, t, 4.0)),
    ):

        def loss(student: Tensor, teacher: Tensor, labels: Tensor, method: Method = method) -> Tensor:
            terms = method.terms(Outputs(student), Outputs(teacher), Targets(labels, labels), None)
            return torch.stack([method.weights(99)[name] * term for name, term in terms.items()]).sum()

        expected, gradient = value_and_gradient(reference, drawn.student, drawn.teacher, drawn.labels)
        value, found = value_and_gradient(loss, drawn.student, drawn.teacher, drawn.labels)
        assert value.item() == pytest.approx(expected.item(), rel=1e-9)
        torch.testing.assert_close(found, gradient, rtol=1e-7, atol=1e-13)


def test_dist_gradient_of_a_rare_class_is_no_larger_than_the_authors() -> None:
    """Without epsilon, as in the paper's formula, the gradient is 1,000 times larger and has another direction."""
    drawn = draw_hard(GOLDEN["hard"]["cases"][0])
    student, teacher, labels = drawn.student, drawn.teacher, drawn.labels
    _, authors = value_and_gradient(lambda s, t, y: references.dist(s, t, 1.0, 1.0, 1.0), student, teacher, labels)
    _, ours = value_and_gradient(lambda s, t, y: dist_loss(s, t, 1.0, 1.0, 1.0), student, teacher, labels)
    _, paper = value_and_gradient(lambda s, t, y: dist_loss(s, t, 1.0, 1.0, 1.0, 0.0), student, teacher, labels)
    absent = torch.tensor(sorted(set(range(student.shape[1])) - set(labels.tolist())))
    assert ours[:, absent].norm().item() == pytest.approx(authors[:, absent].norm().item(), rel=1e-6)
    assert paper[:, absent].norm() > 1000 * authors[:, absent].norm()
